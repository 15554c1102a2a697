"""Provision: validate, plan, apply, wait for the guests, configure, verify."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from emulator.apply.executor import Applied, Executor
from emulator.apply.gpu_ownership import slice_key
from emulator.apply.hypervisor_location import remember_hypervisor
from emulator.apply.state import StateStore
from emulator.core import ids
from emulator.core.errors import ConflictError, HyperscalerError, InterruptedRunError
from emulator.core.fs import private_directory, write_private
from emulator.core.ports import DomainState, GuestAddress
from emulator.core.progress import Event, Reporter, Status
from emulator.core.stop import StopFlag
from emulator.guests.verify.report import CheckResult
from emulator.host.acceleration import AccelerationDecision
from emulator.lab.cluster_pipeline import CONFIGURE_FACT, VERIFY_FACT, ClusterSteps, work_on_clusters
from emulator.lab.drain import drain_departing
from emulator.lab.environment import World
from emulator.lab.lab import Lab, open_lab
from emulator.lab.lab_files import LoadedLab
from emulator.lab.locked_run import Work, tell_damage, working_on
from emulator.lab.open_journal import open_record
from emulator.lab.planning.gpu_placement import GPU_FACT, beside_slices, gpus_kept, node_gpus, slices_made
from emulator.lab.planning.plan import HYPERVISOR_FACT, backends_of, plan_lab, refuse_blocked
from emulator.lab.recovery.ledger_repair import mend_ledgers
from emulator.lab.recovery.orphaned_gpus import keep_found
from emulator.lab.wait_for_ssh import Guest, HostKeyBook, wait_for_guests
from emulator.labfile.model import ClusterKind, ClusterSpec
from emulator.operations.credentials.kubeconfigs import hand_out_kubeconfigs
from emulator.operations.credentials.rotator import Rotator
from emulator.operations.gpu.map import write_mdev_map
from emulator.operations.validate import require_fit
from emulator.plan.model import Plan


@dataclass(frozen=True, slots=True)
class Options:
    """`confirm` sees the plan and says whether to go on; `expected_plan` refuses any other plan."""

    confirm: Callable[[Plan], bool] = field(default=lambda _plan: True)
    expected_plan: str | None = None
    wait_seconds: float = 0.0
    command: str = "provision"


@dataclass(frozen=True, slots=True)
class ProvisionResult:
    """`declined`: the person said no; nothing was changed. `changed`: tasks that Ansible changed, by node."""

    plan: Plan
    declined: bool = False
    changed: Mapping[str, int] = field(default_factory=dict)
    checks: tuple[CheckResult, ...] = ()
    seconds: float = 0.0


def provision(world: World, loaded: LoadedLab, options: Options, reporter: Reporter, stop: StopFlag) -> ProvisionResult:
    """Bring the host to what the file asks for, and prove that it works.

    The file's own bytes are kept with the lab, so that later commands need only its name.

    Raises:
        ConflictError: another command works on the lab, something foreign is in the way, or the journal in the lab's
            directory is another lab's.
        VerifyError: everything was made, but a probe failed.
        HyperscalerError: something failed; a cluster that it does not touch was brought up all the same, and the
            message says so.
    """
    started = time.monotonic()
    spec = loaded.spec
    seconds = options.wait_seconds
    with working_on(world, spec.name, options.command, reporter, wait_seconds=seconds, stop=stop) as work:
        acceleration = world.accelerate(spec.hypervisor.acceleration)
        if acceleration.warning:
            reporter.warn(acceleration.warning)
        world, store = open_record(world, spec.name)
        lab, plan = _plan(world, store, loaded, acceleration, reporter)
        if options.expected_plan not in (None, plan.digest):
            raise ConflictError(
                f"the plan is now {plan.digest}, not {options.expected_plan}: the host or the file has changed",
                fix="look at the new plan with `hyperscaler plan` first",
            )
        refuse_blocked(plan)
        if not options.confirm(plan):
            return ProvisionResult(plan, declined=True)
        _prepare(world, lab, store, loaded.source, work)
        lab = open_lab(world, spec.name, dataclasses.replace(lab.backends, dry=False), images=lab.images)
        keep_found(lab, plan, store)
        plan = _hold_places(lab, store, spec, acceleration, plan, reporter)
        rotator = Rotator(world, lab, store, spec, reporter, stop)
        rotator.settle()
        drain_departing(plan, spec, world.guests.shell(lab.access(spec.ssh.user)), reporter, stop)
        applied = _apply(lab, store, plan, spec, reporter, stop)
        intact = [kind for kind in spec.clusters if applied.is_intact(kind.value)]
        steps = cluster_steps(world, lab, store, spec, reporter, stop)
        steps = dataclasses.replace(steps, boot=_booting(world, lab, spec, reporter, stop))
        clusters = work_on_clusters(spec, steps, store, kinds=intact)
        clusters.conclude(applied.error)
        rotator.finish_pending()
        hand_out_kubeconfigs(world, lab, spec)
        return ProvisionResult(plan, False, clusters.changed, clusters.checks, time.monotonic() - started)


def _plan(
    world: World, store: StateStore, loaded: LoadedLab, acceleration: AccelerationDecision, reporter: Reporter
) -> tuple[Lab, Plan]:
    spec = loaded.spec
    tell_damage(store, reporter)
    mend_ledgers(world, spec.name, reporter)
    lab = open_lab(world, spec.name, backends_of(world, store.state, spec, dry=True))
    require_fit(world, loaded, lab, store.state, reporter)
    reporter.event(Event("plan", spec.name, Status.STARTED, "looking at the host"))
    with gpus_kept(lab.gpus):
        plan = plan_lab(lab, store.state, spec, acceleration)
    reporter.event(Event("plan", spec.name, Status.DONE, f"{len(plan.changes)} changes"))
    return lab, plan


def _hold_places(
    lab: Lab, store: StateStore, spec: ClusterSpec, acceleration: AccelerationDecision, agreed: Plan, reporter: Reporter
) -> Plan:
    """The plan with the places of its slices claimed, before another lab plans for them; where one was taken since the
    plan was agreed to, its slices go elsewhere.

    Raises:
        ConflictError: they cannot, or not without changing more than was agreed to.
    """
    if lab.gpus is None or not slices_made(agreed):
        return agreed
    with gpus_kept(lab.gpus):
        plan = plan_lab(lab, store.state, spec, acceleration)
        if plan.digest != agreed.digest:
            refuse_blocked(plan)
            if beside_slices(plan) != beside_slices(agreed):
                raise ConflictError(
                    "nothing was changed: since the plan was made, the host has changed",
                    fix="run the same command again, it plans anew",
                )
            reporter.warn("somebody has taken places on the GPUs in the meantime; the slices go to others")
        for item in slices_made(plan):
            lab.gpus().ledger.claim(slice_key(item.pci_address, item.profile, item.start), lab.name)
    return plan


def _prepare(world: World, lab: Lab, store: StateStore, source: bytes, work: Work) -> None:
    for directory in (lab.paths.root, lab.paths.logs, lab.paths.console):
        private_directory(directory)
    kept = store.rewrite_damaged()
    work.begin(store, **({"damaged_journal": str(kept)} if kept else {}))
    write_private(lab.paths.spec, source)
    remember_hypervisor(world.home, lab.name, lab.backends.hypervisor)
    for phase in (CONFIGURE_FACT, VERIFY_FACT):
        if store.state.facts.get(phase, "pending") != "pending":
            store.fact(phase, "pending")
    for name, value in ((HYPERVISOR_FACT, lab.backends.hypervisor), (GPU_FACT, lab.backends.gpu)):
        if store.state.facts.get(name, "") != value:
            store.fact(name, value)


def _apply(lab: Lab, store: StateStore, plan: Plan, spec: ClusterSpec, reporter: Reporter, stop: StopFlag) -> Applied:
    """Carry out the plan; the map of GPU devices is brought up to date also when that fails half way.

    Raises:
        HyperscalerError: something failed or a stop was asked for, and no cluster has all that it needs.
    """
    applied = Executor(lab.handlers, store, reporter, stop=stop).run(plan)
    if applied.error is None:
        write_mdev_map(lab.paths, store.state)
        return applied
    with contextlib.suppress(HyperscalerError, OSError):  # the first error is the one to tell
        write_mdev_map(lab.paths, store.state)
    if stop.is_set() or not any(applied.is_intact(kind) for kind in spec.clusters):
        raise applied.error
    return applied


def _booting(
    world: World, lab: Lab, spec: ClusterSpec, reporter: Reporter, stop: StopFlag
) -> Callable[[ClusterKind], None]:
    """What waits for the nodes of a cluster; their host keys go into one book for the whole lab."""
    access = lab.access(spec.ssh.user)
    hypervisor = lab.session.get()

    def running(name: str) -> Callable[[], bool]:
        def look() -> bool:
            info = hypervisor.domain(name)
            return info is not None and info.state is DomainState.RUNNING

        return look

    world.guests.write_access(spec, access, None)
    book = HostKeyBook(world.guests.parse_host_keys, lambda keys: world.guests.write_access(spec, access, keys))
    shell = world.guests.shell(access)

    def boot(kind: ClusterKind) -> None:
        guests = [
            Guest(
                GuestAddress(node.name, node.ip, spec.ssh.user),
                lab.paths.console / f"{node.name}.log",
                running(ids.host_name(spec.name, node.name)),
            )
            for node in spec.nodes_of(kind)
        ]
        wait_for_guests(guests, book, shell, reporter, timeout=spec.timeouts.boot, stop=stop)
        if stop.is_set():
            raise InterruptedRunError(
                "stopped on request while the nodes booted", fix="run the same command again to go on"
            )

    return boot


def cluster_steps(
    world: World, lab: Lab, store: StateStore, spec: ClusterSpec, reporter: Reporter, stop: StopFlag
) -> ClusterSteps:
    """How a cluster whose nodes run is configured and verified."""
    access = lab.access(spec.ssh.user, node_gpus(spec, store.state))
    return ClusterSteps(
        configure=lambda kind: world.guests.configure(spec, kind, access, reporter, stop).changed,
        verify=lambda kind: world.guests.verify(spec, kind, access, reporter),
    )
