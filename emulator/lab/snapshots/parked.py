"""Whether a lab was put to rest on purpose. Reads only."""

from __future__ import annotations

from emulator.core.errors import ConflictError
from emulator.core.paths import LabPaths
from emulator.lab.snapshots.manifest import Operation, Phase, Verb
from emulator.lab.snapshots.store import SnapshotStore


def parked(paths: LabPaths) -> Operation | None:
    """The record of the lab's rest: it is suspended, or stopped. None for a lab that runs, or is to run.

    Raises:
        StateError: the record is damaged.
    """
    operation = SnapshotStore(paths).operation()
    return operation if operation is not None and operation.phase is Phase.PARKED else None


def refuse_parked(paths: LabPaths, lab: str) -> None:
    """Refuse to work on the machines of a lab that was put to rest; a suspended one would lose its memory.

    Raises:
        ConflictError: the lab is suspended or stopped.
        StateError: the record is damaged.
    """
    rest = parked(paths)
    if rest is None:
        return
    if rest.verb is Verb.SUSPEND:
        raise ConflictError("the lab is suspended", where=lab, fix=f"hyperscaler resume {lab}")
    raise ConflictError("the lab is stopped", where=lab, fix=f"hyperscaler start {lab}")
