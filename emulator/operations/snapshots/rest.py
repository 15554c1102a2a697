"""Suspend a lab or stop it, and let it go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emulator.core.errors import ConflictError, UsageError
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.guests.verify.report import CheckResult
from emulator.lab.cluster_pipeline import Step, work_on_clusters
from emulator.lab.environment import Environment
from emulator.lab.lab_files import load_recorded_lab
from emulator.lab.run import LabRun, provisioned_run
from emulator.lab.snapshots.create import Creation, require_ready
from emulator.lab.snapshots.manifest import SUSPENDED, Phase, Verb
from emulator.lab.snapshots.park import Parking
from emulator.lab.snapshots.parked import parked, refuse_parked
from emulator.lab.snapshots.present import describe
from emulator.lab.snapshots.settle import settle_snapshots
from emulator.lab.snapshots.store import SnapshotStore
from emulator.operations.credentials.kubeconfigs import hand_out_kubeconfigs
from emulator.operations.credentials.rotator import Rotator
from emulator.operations.provision import Options, ProvisionResult, provision
from emulator.operations.snapshots.create import require_own_hypervisor


@dataclass(frozen=True, slots=True)
class Suspended:
    """`memory_mib`: of the host, which became free. `space_bytes`: of the disk, which the machines' memory takes."""

    memory_mib: int
    space_bytes: int


def suspend_lab(
    env: Environment, lab: str, reporter: Reporter, stop: StopFlag, *, wait_seconds: float = 0.0
) -> Suspended:
    """Write the memory of all machines to files and free it; `resume_lab` lets them go on where they were.

    Raises:
        UsageError: there is no such lab.
        ConflictError: it is at rest already, a machine does not run or has a device of the host, there is no space, or
            the lab is not on a hypervisor of its own.
        HyperscalerError: a machine cannot be saved; the lab goes on as before.
    """
    with provisioned_run(env, lab, "suspend", reporter, stop, wait_seconds=wait_seconds) as run:
        require_own_hypervisor(run)
        _begin(run)
        require_ready(Creation.of(run, SUSPENDED, ram=True))
        Parking.of(run).suspend(describe(run, SUSPENDED, ram=True))
        memory = sum(node.memory_mib for node in run.spec.nodes)
        return Suspended(memory, SnapshotStore(run.paths).space(SUSPENDED))


def resume_lab(
    env: Environment,
    lab: str,
    reporter: Reporter,
    stop: StopFlag,
    *,
    verify: bool = True,
    wait_seconds: float = 0.0,
) -> tuple[CheckResult, ...]:
    """Let a suspended lab go on; what was tried afterwards.

    Users who were revoked meanwhile are gone before anything passes between the clusters or out.

    Raises:
        UsageError: there is no such lab, or it is not suspended.
        ConflictError: its memory was saved on another machine, or something is in the way; it stays suspended.
        VerifyError: it goes on, and a check failed.
    """
    with provisioned_run(env, lab, "resume", reporter, stop, wait_seconds=wait_seconds, at_rest=True) as run:
        operation = SnapshotStore(run.paths).operation()
        if operation is None or operation.verb is not Verb.SUSPEND:
            raise UsageError(f"lab {lab} is not suspended", fix=f"hyperscaler status {lab}")
        acceleration = env.accelerate(run.spec.hypervisor.acceleration)
        run.begin()
        Rotator(run).settle()
        if operation.phase is Phase.PARKED:
            parking = Parking.of(run)
            parking.bring_up_host(acceleration)
            _require_same_machine(run)
            parking.resume()
        else:
            settle_snapshots(run)
        hand_out_kubeconfigs(run)
        if not verify:
            return ()
        clusters = work_on_clusters(run, Step.VERIFY)
        clusters.conclude()
        return clusters.checks


def _require_same_machine(run: LabRun) -> None:
    then, now = SnapshotStore(run.paths).draft(SUSPENDED).machine, describe(run, SUSPENDED, ram=True).machine
    if then != now:
        raise ConflictError(
            f"the memory of the machines was saved on another machine ({then}), this one is {now}",
            where=run.name,
            fix=f"give their memory up, and boot them from their disks: hyperscaler start {run.name} --cold",
        )


def stop_lab(
    env: Environment,
    lab: str,
    reporter: Reporter,
    stop: StopFlag,
    *,
    confirm: Callable[[], bool],
    wait_seconds: float = 0.0,
) -> bool:
    """Shut all machines down, workers first; False if the user said no.

    Raises:
        UsageError: there is no such lab.
        ConflictError: it is at rest already.
    """
    with provisioned_run(env, lab, "stop", reporter, stop, wait_seconds=wait_seconds) as run:
        if not confirm():
            return False
        _begin(run)
        Parking.of(run).stop()
        return True


def start_lab(
    env: Environment, lab: str, reporter: Reporter, stop: StopFlag, *, cold: bool = False, wait_seconds: float = 0.0
) -> ProvisionResult:
    """Let a stopped lab run again: as `provision` with its own file. With `cold` a suspended one, too, whose memory is
    given up.

    Raises:
        UsageError: there is no such lab.
        ConflictError: it is suspended, and its memory is not to be given up.
    """
    with provisioned_run(env, lab, "start", reporter, stop, wait_seconds=wait_seconds, at_rest=True) as run:
        rest = parked(run.paths)
        if rest is not None and rest.verb is Verb.SUSPEND and not cold:
            refuse_parked(run.paths, lab)
        if rest is not None:
            run.begin()
            Parking.of(run).forget()
    options = Options(command="start", wait_seconds=wait_seconds)
    return provision(env, load_recorded_lab(env.home, lab), options, reporter, stop)


def _begin(run: LabRun) -> None:
    run.begin()
    Rotator(run).settle()
    settle_snapshots(run)
