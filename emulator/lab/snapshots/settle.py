"""What a killed command has left half done with a snapshot is brought to an end by the next one."""

from __future__ import annotations

from emulator.lab.run import LabRun
from emulator.lab.snapshots.create import Creation
from emulator.lab.snapshots.layers import tidy
from emulator.lab.snapshots.manifest import Verb
from emulator.lab.snapshots.park import Parking
from emulator.lab.snapshots.parked import refuse_parked
from emulator.lab.snapshots.restore import Restoration
from emulator.lab.snapshots.store import SnapshotStore


def settle_snapshots(run: LabRun) -> None:
    """Undo or carry on the operation that is on record, and remove remains. The run has begun.

    Raises:
        ConflictError: the lab is suspended or stopped.
        StateError: its record is damaged.
        HyperscalerError: it cannot be brought to an end yet; the next command tries it again.
    """
    store = SnapshotStore(run.paths)
    operation = store.operation()
    if operation is None:
        tidy(run, store)
        return
    name, verb = operation.snapshot, operation.verb
    refuse_parked(run.paths, run.name)
    run.reporter.note(f"{verb} ({name}) was interrupted; it is brought to an end first")
    if verb in (Verb.SUSPEND, Verb.STOP):
        Parking.of(run).settle(operation)
        refuse_parked(run.paths, run.name)
    elif verb is Verb.CREATE:
        Creation.of(run, name, ram=operation.ram).settle(operation)
    else:
        Restoration.of(run, store.manifest(name), ram=operation.ram).settle(operation)
