"""Make a snapshot of a lab, by a person or after a verification."""

from __future__ import annotations

from emulator.core.errors import ConflictError, HyperscalerError
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.credentials.rotation_files import pending_rotations
from emulator.lab.environment import Environment
from emulator.lab.run import LabRun, provisioned_run
from emulator.lab.snapshots.create import Creation, require_ready
from emulator.lab.snapshots.fits import refusals
from emulator.lab.snapshots.manifest import PRISTINE, Manifest, check_name
from emulator.lab.snapshots.present import describe
from emulator.lab.snapshots.settle import settle_snapshots
from emulator.lab.snapshots.store import SnapshotStore
from emulator.operations.credentials.rotator import Rotator
from emulator.operations.snapshots.delete import remove


def create_snapshot(
    env: Environment,
    lab: str,
    name: str,
    reporter: Reporter,
    stop: StopFlag,
    *,
    disk_only: bool = False,
    wait_seconds: float = 0.0,
) -> Manifest:
    """Set the state of all machines aside under a name; the lab goes on at once.

    With `disk_only` the guests are shut down and booted again: their memory is no part of it.

    Raises:
        UsageError: no such lab, or not a possible name.
        ConflictError: the name is taken, a machine does not run or has a device of the host, there is no space, a
            rotation has not ended, or the lab is not on a hypervisor of its own.
        HyperscalerError: a machine cannot be saved; the lab goes on as before.
    """
    check_name(name)
    with provisioned_run(env, lab, "snapshot create", reporter, stop, wait_seconds=wait_seconds) as run:
        require_own_hypervisor(run)
        _require_free(run, name)
        run.begin(snapshot=name)
        Rotator(run).settle()
        settle_snapshots(run)
        return _make(run, name, ram=not disk_only)


def _make(run: LabRun, name: str, *, ram: bool) -> Manifest:
    creation = Creation.of(run, name, ram=ram)
    if pending_rotations(run.paths):
        raise ConflictError(
            "a rotation has not ended, so that not all machines have the same secrets",
            where=run.name,
            fix=f"hyperscaler rotate {run.name} goes on with it; hyperscaler status {run.name} names it",
        )
    require_ready(creation)
    return creation.make(describe(run, name, ram=ram))


def require_own_hypervisor(run: LabRun) -> None:
    """Raise for a lab on a hypervisor that others use: users of the host reach its guests, and would do so before the
    present record of access holds again.

    Raises:
        ConflictError: the lab is on one.
    """
    if run.lab.namespace is None:
        raise ConflictError(
            f"snapshots are for labs with a hypervisor of their own; this one is on {run.lab.backends.hypervisor}",
            where="hypervisor.uri",
            fix="set hypervisor.uri: embedded, and make the lab anew",
        )


def _require_free(run: LabRun, name: str) -> None:
    store = SnapshotStore(run.paths)
    if name in store.names():
        raise ConflictError(
            f"there is a snapshot {name} already",
            where=run.name,
            fix=f"take another name, or first: hyperscaler snapshot delete {run.name} {name}",
        )
    pending = store.operation()
    if store.directory(name).is_dir() and (pending is None or pending.snapshot != name):
        raise ConflictError(
            f"disks of the lab still stand on what was frozen for an earlier snapshot {name}",
            where=run.name,
            fix="take another name",
        )


def keep_pristine(run: LabRun) -> None:
    """Have a snapshot of the lab as it was verified, if its file asks for one; one that does not fit is made anew.

    What is in the way is a warning and fails no command: the lab is as it was asked for.
    """
    if not run.spec.snapshots.pristine:
        return
    try:
        require_own_hypervisor(run)
        store = SnapshotStore(run.paths)
        if PRISTINE in store.names():
            found = refusals(store.manifest(PRISTINE), describe(run, PRISTINE, ram=True))
            if not found.wholly and not found.memory:
                return
            remove(run, PRISTINE)
        _require_free(run, PRISTINE)
        _make(run, PRISTINE, ram=True)
    except HyperscalerError as error:
        run.reporter.warn(f"the snapshot {PRISTINE} was not made: {error.what}")
