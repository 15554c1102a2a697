"""Delete a snapshot, and put the layers together that only it kept apart."""

from __future__ import annotations

from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.lab.environment import Environment
from emulator.lab.run import LabRun, provisioned_run
from emulator.lab.snapshots.layers import tidy
from emulator.lab.snapshots.manifest import check_name
from emulator.lab.snapshots.settle import settle_snapshots
from emulator.lab.snapshots.store import SnapshotStore
from emulator.operations.credentials.rotator import Rotator


def delete_snapshot(
    env: Environment, lab: str, name: str, reporter: Reporter, stop: StopFlag, *, wait_seconds: float = 0.0
) -> int:
    """Delete a snapshot; bytes that became free. The machines go on meanwhile.

    Raises:
        UsageError: no such lab or snapshot.
        ConflictError: another command works on the lab.
    """
    check_name(name)
    with provisioned_run(env, lab, "snapshot delete", reporter, stop, wait_seconds=wait_seconds) as run:
        store = SnapshotStore(run.paths)
        if name not in store.names():
            store.manifest(name)  # says which there are
        run.begin(snapshot=name)
        Rotator(run).settle()
        settle_snapshots(run)
        return remove(run, name)


def remove(run: LabRun, name: str) -> int:
    """Delete a snapshot that is there; bytes that became free. Killed half way, the next command with snapshots removes
    what is left."""
    store = SnapshotStore(run.paths)
    before = store.free_bytes()
    store.unpublish(name)
    tidy(run, store)
    return max(0, store.free_bytes() - before)
