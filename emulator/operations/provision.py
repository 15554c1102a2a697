"""Provision: bring the host to what a lab file asks for, and prove that it works.

`provision` names its stages in their order. The stages that work inside the guests (boot, configure, verify) run for
each cluster on its own, from when all that it needs is there; they are in `emulator.lab.cluster_pipeline`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from emulator.core.errors import HyperscalerError
from emulator.core.progress import Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.guests.verify.report import CheckResult
from emulator.host.acceleration import AccelerationDecision
from emulator.lab.apply_plan import apply_plan, begin_changes, claim_gpus
from emulator.lab.cluster_pipeline import Clusters, Step, clusters_at_work
from emulator.lab.environment import Environment
from emulator.lab.lab_files import LoadedLab
from emulator.lab.open_journal import open_record
from emulator.lab.planning.plan import open_to_plan, plan_lab, plan_with_gpus_held, refuse_blocked, refuse_stale
from emulator.lab.recovery.ledger_repair import repair_records
from emulator.lab.run import LabRun, LockedRun, locked_run
from emulator.lab.snapshots.parked import refuse_parked
from emulator.lab.snapshots.settle import settle_snapshots
from emulator.lab.snapshots.store import SnapshotStore
from emulator.labfile.model import ClusterKind
from emulator.operations.credentials.kubeconfigs import hand_out_kubeconfigs
from emulator.operations.credentials.rotator import Rotator
from emulator.operations.snapshots.create import keep_pristine
from emulator.operations.validate import check_on_host
from emulator.plan.model import Plan


@dataclass(frozen=True, slots=True)
class Options:
    """How a plan is agreed to.

    Attributes:
        confirm: is shown the plan; False ends the command before anything is changed.
        expected_plan: digest of the only plan to accept; None accepts any.
        wait_seconds: how long to wait for another command that works on the lab.
        command: the name of the command, for the lab's journal and the host's log.
    """

    confirm: Callable[[Plan], bool] = field(default=lambda _plan: True)
    expected_plan: str | None = None
    wait_seconds: float = 0.0
    command: str = "provision"


@dataclass(frozen=True, slots=True)
class ProvisionResult:
    """`declined`: the user said no, and nothing was changed. `seconds`: from the start to the end."""

    plan: Plan
    declined: bool = False
    clusters: Clusters = field(default_factory=Clusters)
    seconds: float = 0.0

    @property
    def changed(self) -> Mapping[str, int]:
        """How many tasks Ansible changed, by node."""
        return self.clusters.changed

    @property
    def checks(self) -> tuple[CheckResult, ...]:
        return self.clusters.checks


def preview(env: Environment, loaded: LoadedLab, reporter: Reporter) -> Plan:
    """What `provision` would do now. Takes no lock and writes nothing; blockers are in the plan and not raised."""
    record = open_record(env.home, loaded.spec.name)
    lab = open_to_plan(env, record, loaded.spec)
    acceleration = check_on_host(env, loaded, lab, record.state, reporter)
    return plan_lab(lab, record.state, loaded.spec, acceleration)


def provision(
    env: Environment, loaded: LoadedLab, options: Options, reporter: Reporter, stop: StopFlag
) -> ProvisionResult:
    """Bring the host to what the file asks for, and prove that it works.

    The bytes of the file are kept with the lab, so that later commands need only the lab's name.

    Raises:
        ConflictError: another command works on the lab, it is suspended or stopped, something foreign is in the way,
            or the journal in the lab's directory is another lab's.
        VerifyError: everything was made, but a probe failed.
        HyperscalerError: something failed. A cluster that the failure does not touch was brought up all the same; the
            message says so.
    """
    started, name, seconds = time.monotonic(), loaded.spec.name, options.wait_seconds
    with locked_run(env, name, options.command, reporter, stop, wait_seconds=seconds) as locked:
        refuse_parked(locked.paths, name)
        run = _open(locked, loaded)
        acceleration = check_on_host(env, loaded, run.lab, run.state, reporter)
        plan = _plan(run, acceleration)
        if not _agree(plan, options):
            return ProvisionResult(plan, declined=True)
        begin_changes(run, loaded.source)
        plan = claim_gpus(run, plan, acceleration)
        Rotator(run).settle()
        settle_snapshots(run)
        failure, clusters = _apply(run, plan)
        clusters.conclude(failure)
        settle_snapshots(run)  # layers of machines that did not run until now
        _hand_out(run)
        keep_pristine(run)
        return ProvisionResult(plan, clusters=clusters, seconds=time.monotonic() - started)


def _open(locked: LockedRun, loaded: LoadedLab) -> LabRun:
    repair_records(locked)
    return locked.on(open_to_plan(locked.env, locked.record, loaded.spec), loaded.spec)


def _plan(run: LabRun, acceleration: AccelerationDecision) -> Plan:
    run.reporter.event(Event("plan", run.name, Status.STARTED, "looking at the host"))
    plan = plan_with_gpus_held(run.lab, run.state, run.spec, acceleration)
    run.reporter.event(Event("plan", run.name, Status.DONE, f"{len(plan.changes)} changes"))
    return plan


def _agree(plan: Plan, options: Options) -> bool:
    refuse_stale(plan, options.expected_plan)
    refuse_blocked(plan)
    return options.confirm(plan)


def _apply(run: LabRun, plan: Plan) -> tuple[HyperscalerError | None, Clusters]:
    """Each cluster is begun as soon as it has what it needs; after a restoration that a reboot of the host has cut off,
    once its machines are healed."""
    waiting: list[ClusterKind] = []
    cut_off = SnapshotStore(run.paths).operation() is not None
    with clusters_at_work(run, Step.BOOT, Step.CONFIGURE, Step.VERIFY) as work:
        failure = apply_plan(run, plan, ready=waiting.append if cut_off else work.begin)
        if cut_off:
            settle_snapshots(run)
        for kind in waiting:
            work.begin(kind)
        return failure, work.end()


def _hand_out(run: LabRun) -> None:
    """Users get what has changed for them: new certificates after a rotation, and kubeconfigs."""
    Rotator(run).finish_pending()
    hand_out_kubeconfigs(run)
