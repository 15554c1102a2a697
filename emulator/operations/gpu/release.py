"""Release: give the GPUs of a lab back to the host, and leave the rest of the lab as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emulator.apply.executor import Executor, HandlerTable
from emulator.apply.state import State
from emulator.core.errors import ConflictError, UsageError
from emulator.core.ids import resource_uuid
from emulator.core.ports import DomainState
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.lab.environment import Environment
from emulator.lab.lab import Lab, open_lab
from emulator.lab.locked_run import tell_damage, working_on
from emulator.lab.open_journal import open_record
from emulator.lab.planning.plan import recorded_backends
from emulator.lab.recovery.ledger_repair import mend_ledgers
from emulator.lab.recovery.orphaned_gpus import keep_found
from emulator.operations.gpu.map import write_mdev_map
from emulator.operations.gpu.reports import recorded_backend
from emulator.plan.diff import diff
from emulator.plan.gpu_resources import GPU_GROUP, GpuInstance, MigMode, Vgpu, VirtualFunctions, WholeGpu
from emulator.plan.model import Plan
from emulator.plan.resources import Domain, Resource

#: The order in which things are made on a GPU; they are taken away in the reverse.
GPU_KINDS = (MigMode.kind, VirtualFunctions.kind, GpuInstance.kind, Vgpu.kind, WholeGpu.kind)


@dataclass(frozen=True, slots=True)
class ReleaseResult:
    plan: Plan
    declined: bool = False


def release(
    env: Environment,
    name: str,
    reporter: Reporter,
    stop: StopFlag,
    *,
    confirm: Callable[[Plan], bool],
    wait_seconds: float = 0.0,
) -> ReleaseResult:
    """Take away the slices, vGPUs and bindings that the lab made on the host's GPUs, and nothing else.

    Raises:
        UsageError: there is no such lab, neither on record nor in the GPU ledger.
        ConflictError: guests of the lab run (named), or the journal in its directory is another lab's.
        HyperscalerError: something could not be taken away; it stays on record.
    """
    with working_on(env, name, "gpu release", reporter, wait_seconds=wait_seconds, stop=stop) as work:
        paths = env.home.lab(name)
        env, store = open_record(env, name)
        tell_damage(store, reporter)
        mend_ledgers(env, name, reporter)
        lab = _open(env, name, store.state)
        handlers = {kind: handler for kind, handler in lab.handlers.items() if kind in GPU_KINDS}
        plan = plan_release(name, store.state, handlers)
        if plan.is_empty and not paths.root.exists():
            raise UsageError(f"there is no lab {name}", where=str(paths.root), fix="hyperscaler status lists the labs")
        if plan.is_empty:
            return ReleaseResult(plan)
        refuse_running(lab, store.state)
        if not confirm(plan):
            return ReleaseResult(plan, declined=True)
        paths.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        store.rewrite_damaged()
        work.begin(store)
        keep_found(lab, plan, store)
        try:
            Executor(handlers, store, reporter, stop=stop).apply(plan)
        finally:
            write_mdev_map(paths, store.state)
        return ReleaseResult(plan)


def plan_release(name: str, state: State, handlers: HandlerTable) -> Plan:
    """Deletes of everything that the lab has on GPUs, by its record and by the marks on the host."""
    recorded = {key: record for key, record in state.resources.items() if record.resource.group == GPU_GROUP}
    found = [item for handler in handlers.values() for item in handler.find(name)]
    return diff(name, (), recorded, {}, with_gpu_needs(found))


def with_gpu_needs(found: Sequence[Resource]) -> tuple[Resource, ...]:
    """What is found on GPUs without a record, with the needs by which it is taken away in the right order."""
    return tuple(
        dataclasses.replace(
            item,
            needs=tuple(other.id for other in found if GPU_KINDS.index(other.kind) < GPU_KINDS.index(item.kind)),
        )
        for item in found
    )


def _open(env: Environment, name: str, state: State) -> Lab:
    recorded = recorded_backends(state)
    return open_lab(env, name, dataclasses.replace(recorded, gpu=recorded_backend(env, name, state), devices=None))


def refuse_running(lab: Lab, state: State) -> None:
    """Raise while guests of the lab run: a slice must not go from under them.

    Raises:
        ConflictError: names them.
    """
    connection = lab.session.revive() if lab.backends.hypervisor else None
    if connection is None:
        return
    ours = {
        resource_uuid(lab.name, record.resource.id)
        for record in state.resources.values()
        if isinstance(record.resource, Domain)
    }
    running = [
        domain.name
        for domain in connection.domains()
        if domain.state not in (DomainState.SHUTOFF, DomainState.CRASHED)
        and (domain.uuid in ours or lab.identity.owns_domain(domain))
    ]
    if running:
        raise ConflictError(
            f"guests of lab {lab.name} run: {', '.join(sorted(running))}",
            where=lab.name,
            fix=f"shut them down first, or take the whole lab away: hyperscaler destroy {lab.name}",
        )
