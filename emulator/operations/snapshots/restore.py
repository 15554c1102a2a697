"""Take a lab back to a snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from emulator.core.errors import ConflictError
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.guests.verify.report import CheckResult
from emulator.lab.cluster_pipeline import Step, work_on_clusters
from emulator.lab.environment import Environment
from emulator.lab.run import LabRun, provisioned_run
from emulator.lab.snapshots.create import devices_of
from emulator.lab.snapshots.fits import refusals
from emulator.lab.snapshots.guest_states import GuestStates
from emulator.lab.snapshots.manifest import PRISTINE, Manifest, Verb, check_name
from emulator.lab.snapshots.present import describe
from emulator.lab.snapshots.restore import Restoration
from emulator.lab.snapshots.settle import settle_snapshots
from emulator.lab.snapshots.store import SnapshotStore
from emulator.operations.credentials.kubeconfigs import hand_out_kubeconfigs
from emulator.operations.credentials.rotator import Rotator
from emulator.operations.snapshots.create import require_own_hypervisor


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How to go back.

    Attributes:
        disk_only: the machines boot from their disks of that time; else they go on from their memory.
        verify: whether the clusters are tried afterwards.
        confirm: is shown the snapshot; False ends the command before anything is changed.
        wait_seconds: how long to wait for another command that works on the lab.
        command: the name of the command, for the lab's journal and the host's log.
    """

    disk_only: bool = False
    verify: bool = True
    confirm: Callable[[Manifest], bool] = field(default=lambda _manifest: True)
    wait_seconds: float = 0.0
    command: str = "snapshot restore"


@dataclass(frozen=True, slots=True)
class Restored:
    """`declined`: the user said no, and nothing was changed. `checks`: what was tried afterwards."""

    manifest: Manifest
    declined: bool = False
    checks: tuple[CheckResult, ...] = ()


def restore_snapshot(
    env: Environment, lab: str, name: str, options: RestoreOptions, reporter: Reporter, stop: StopFlag
) -> Restored:
    """Bring all machines back to a snapshot; users, revocations, ends and secrets stay as they are now.

    A restoration that was interrupted is begun anew, whatever snapshot it was of.

    Raises:
        UsageError: no such lab or snapshot.
        ConflictError: the snapshot does not fit the lab, its host, or the two as they are now; nothing was changed.
        StateError: a file of it is damaged; nothing was changed.
        VerifyError: the lab is as it was, and a check failed.
        HyperscalerError: a machine cannot be restored; the same command goes on.
    """
    check_name(name)
    with provisioned_run(env, lab, options.command, reporter, stop, wait_seconds=options.wait_seconds) as run:
        require_own_hypervisor(run)
        store = SnapshotStore(run.paths)
        manifest = store.manifest(name)
        pending = store.operation()
        if pending is not None and pending.verb is Verb.CREATE:
            run.begin(snapshot=name)
            settle_snapshots(run)
        ram = manifest.ram and not options.disk_only
        _require_fit(run, manifest, ram=ram, asked_for_disks=options.disk_only)
        restoration = Restoration.of(run, manifest, ram=ram)
        restoration.require_whole()
        if not options.confirm(manifest):
            return Restored(manifest, declined=True)
        run.begin(snapshot=name)
        Rotator(run).settle()
        restoration.carry_out()
        hand_out_kubeconfigs(run)
        return Restored(manifest, checks=_verify(run) if options.verify else ())


def _verify(run: LabRun) -> tuple[CheckResult, ...]:
    clusters = work_on_clusters(run, Step.VERIFY)
    clusters.conclude()
    return clusters.checks


def _require_fit(run: LabRun, manifest: Manifest, *, ram: bool, asked_for_disks: bool) -> None:
    guests = GuestStates(run, SnapshotStore(run.paths))
    found = refusals(manifest, describe(run, manifest.name, ram=ram), with_devices=devices_of(guests))
    if found.wholly:
        raise ConflictError(
            f"snapshot {manifest.name} does not fit the lab any more: {'; '.join(found.wholly)}",
            where=run.name,
            fix="bring the lab to the file and the machines of that time with `hyperscaler provision`, or delete the"
            f" snapshot: hyperscaler snapshot delete {run.name} {manifest.name}",
        )
    if found.memory and not asked_for_disks:
        verb = "reset" if manifest.name == PRISTINE else "snapshot restore"
        words = run.name if manifest.name == PRISTINE else f"{run.name} {manifest.name}"
        raise ConflictError(
            f"the machines cannot go on from their memory in snapshot {manifest.name}: {'; '.join(found.memory)}",
            where=run.name,
            fix=f"boot them from their disks of that time: hyperscaler {verb} {words} --disk-only",
        )
