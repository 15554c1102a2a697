"""Provision: validate, plan, apply, wait for the guests, configure, verify."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from emulator import ids
from emulator.app.boot import Guest, HostKeyBook, wait_for_guests
from emulator.app.files import LoadedLab
from emulator.app.gpu_map import write_mdev_map
from emulator.app.gpu_planning import GPU_FACT, node_gpus
from emulator.app.lab import Lab, open_lab
from emulator.app.planning import HYPERVISOR_FACT, backends_of, plan_lab, refuse_blocked
from emulator.app.validating import require_fit
from emulator.app.world import CheckOutcome, World
from emulator.apply.executor import Executor
from emulator.apply.handler import StopFlag
from emulator.apply.handlers.files import private_directory, write_private
from emulator.apply.journal import Journal
from emulator.apply.lock import exclusive_lock
from emulator.apply.state import StateStore
from emulator.errors import ConflictError, HyperscalerError, StateError, VerifyError
from emulator.plan.model import Plan
from emulator.ports import DomainState, GuestAddress
from emulator.progress import Event, Reporter, Status
from emulator.spec.model import ClusterSpec


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
    checks: tuple[CheckOutcome, ...] = ()
    seconds: float = 0.0


def provision(world: World, loaded: LoadedLab, options: Options, reporter: Reporter, stop: StopFlag) -> ProvisionResult:
    """Bring the host to what the file asks for, and prove that it works.

    The file's own bytes are kept with the lab, so that later commands need only its name.

    Raises:
        ConflictError: another command works on the lab, or something foreign is in the way.
        VerifyError: everything was made, but a probe failed.
    """
    started = time.monotonic()
    spec = loaded.spec
    lock = world.home.locks / f"{spec.name}.lock"
    with exclusive_lock(lock, purpose=f"{options.command} {spec.name}", wait_seconds=options.wait_seconds):
        lab, store, plan = _plan(world, loaded, reporter)
        if options.expected_plan not in (None, plan.digest):
            raise ConflictError(
                f"the plan is now {plan.digest}, not {options.expected_plan}: the host or the file has changed",
                fix="look at the new plan with `hyperscaler plan` first",
            )
        refuse_blocked(plan)
        if not options.confirm(plan):
            return ProvisionResult(plan, declined=True)
        _prepare(lab, store, loaded.source, options.command)
        lab = open_lab(world, spec.name, dataclasses.replace(lab.backends, dry=False))
        _apply(lab, store, plan, reporter, stop)
        _boot(world, lab, spec, reporter, stop)
        outcome = configure_lab(world, lab, store, spec, reporter, stop)
        checks = verify_lab(world, lab, store, spec, reporter)
        return ProvisionResult(plan, False, outcome, checks, time.monotonic() - started)


def _plan(world: World, loaded: LoadedLab, reporter: Reporter) -> tuple[Lab, StateStore, Plan]:
    spec = loaded.spec
    acceleration = world.accelerate(spec.hypervisor.acceleration)
    if acceleration.warning:
        reporter.warn(acceleration.warning)
    store = StateStore(Journal(world.home.lab(spec.name).journal))
    for damage in store.damage:
        kind = "its last line was cut off by a crash" if damage.torn else damage.why
        reporter.warn(f"{store.journal.path}:{damage.line}: {kind}; what is on the host is looked at instead")
    lab = open_lab(world, spec.name, backends_of(world, store.state, spec, dry=True))
    require_fit(world, loaded, lab.backends.hypervisor, store.state, reporter)
    reporter.event(Event("plan", spec.name, Status.STARTED, "looking at the host"))
    plan = plan_lab(lab, store.state, spec, acceleration)
    reporter.event(Event("plan", spec.name, Status.DONE, f"{len(plan.changes)} changes"))
    return lab, store, plan


def _prepare(lab: Lab, store: StateStore, source: bytes, command: str) -> None:
    for directory in (lab.paths.root, lab.paths.logs, lab.paths.console):
        private_directory(directory)
    kept = store.rewrite_damaged()
    store.start_run(command, **({"damaged_journal": str(kept)} if kept else {}))
    write_private(lab.paths.spec, source)
    for phase in ("phase/configure", "phase/verify"):
        if store.state.facts.get(phase, "pending") != "pending":
            store.fact(phase, "pending")
    for name, value in ((HYPERVISOR_FACT, lab.backends.hypervisor), (GPU_FACT, lab.backends.gpu)):
        if store.state.facts.get(name, "") != value:
            store.fact(name, value)


def _apply(lab: Lab, store: StateStore, plan: Plan, reporter: Reporter, stop: StopFlag) -> None:
    """Carry out the plan; the map of GPU devices is brought up to date also when that fails half way."""
    try:
        if not plan.is_empty:
            Executor(lab.handlers, store, reporter, stop=stop).apply(plan)
    except HyperscalerError:
        with contextlib.suppress(HyperscalerError, OSError):  # the first error is the one to tell
            write_mdev_map(lab.paths, store.state)
        raise
    write_mdev_map(lab.paths, store.state)


def _boot(world: World, lab: Lab, spec: ClusterSpec, reporter: Reporter, stop: StopFlag) -> None:
    access = lab.access(spec.ssh.user)
    hypervisor = lab.session.get()

    def running(name: str) -> Callable[[], bool]:
        def look() -> bool:
            info = hypervisor.domain(name)
            return info is not None and info.state is DomainState.RUNNING

        return look

    guests = [
        Guest(
            GuestAddress(node.name, node.ip, spec.ssh.user),
            lab.paths.console / f"{node.name}.log",
            running(ids.host_name(spec.name, node.name)),
        )
        for node in spec.nodes
    ]
    world.guests.write_access(spec, access, None)
    book = HostKeyBook(world.guests.parse_host_keys, lambda keys: world.guests.write_access(spec, access, keys))
    shell = world.guests.shell(access)
    wait_for_guests(guests, book, shell, reporter, timeout=spec.timeouts.boot, stop=stop)
    if stop.is_set():
        raise StateError("stopped on request while the nodes booted", fix="run the same command again to go on")


def configure_lab(
    world: World, lab: Lab, store: StateStore, spec: ClusterSpec, reporter: Reporter, stop: StopFlag
) -> Mapping[str, int]:
    """Run the playbooks; returns changed tasks by node."""
    store.fact("phase/configure", "begun")
    access = lab.access(spec.ssh.user, node_gpus(spec, store.state))
    outcome = world.guests.configure(spec, access, reporter, stop)
    store.fact("phase/configure", "done")
    return outcome.changed


def verify_lab(
    world: World, lab: Lab, store: StateStore, spec: ClusterSpec, reporter: Reporter
) -> tuple[CheckOutcome, ...]:
    """Probe the lab.

    Raises:
        VerifyError: names every check that failed.
    """
    checks = world.guests.verify(spec, lab.access(spec.ssh.user, node_gpus(spec, store.state)), reporter)
    failed = [check for check in checks if not check.ok]
    store.fact("phase/verify", "failed" if failed else "done")
    if failed:
        lines = "\n    ".join(f"{check.name}: {check.detail}" for check in failed)
        raise VerifyError(
            f"{len(failed)} of {len(checks)} checks failed:\n    {lines}",
            where=spec.name,
            fix=f"hyperscaler ssh {spec.name} {spec.nodes[0].name}, then look at the services' logs",
        )
    return checks
