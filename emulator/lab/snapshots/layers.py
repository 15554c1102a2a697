"""The layers of deleted snapshots: put together with what stands on them, and removed."""

from __future__ import annotations

from emulator.core import ids
from emulator.core.errors import HyperscalerError
from emulator.core.progress import Event, Status
from emulator.lab.run import LabRun
from emulator.lab.snapshots.guest_states import GuestStates
from emulator.lab.snapshots.present import domains
from emulator.lab.snapshots.store import SnapshotStore


def tidy(run: LabRun, store: SnapshotStore) -> None:
    """Remove what is left of snapshots that are none any more. No operation is on record.

    Disks of running guests are put on layers that still belong to a snapshot, or on their golden images. The others
    keep theirs, and the next command tries again. It can be killed anywhere.
    """
    if not store.has_remains():
        return
    _flatten(run, store)
    store.collect(run.env.disks)


def _flatten(run: LabRun, store: SnapshotStore) -> None:
    guests = GuestStates(run, store)
    if run.lab.session.revive() is None:
        return
    for node in domains(run):
        disk = store.disk(node)
        base = store.kept_base(run.env.disks, disk)
        if base is None or base == run.env.disks.overlay_base(disk) or not guests.is_on(node):
            continue
        run.reporter.event(Event("snapshot", node, Status.RUNNING, "putting the layers of its disk together"))
        try:
            guests.hypervisor.flatten_disk(ids.host_name(run.name, node), base)
        except HyperscalerError as error:
            run.reporter.warn(f"the layers under the disk of {node} stay for now: {error.what}")
