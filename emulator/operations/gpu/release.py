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
from emulator.lab.mdev_map import write_mdev_map
from emulator.lab.planning.plan import recorded_backends
from emulator.lab.recovery.ledger_repair import repair_records
from emulator.lab.recovery.orphaned_gpus import record_found
from emulator.lab.run import LockedRun, locked_run
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
    with locked_run(env, name, "gpu release", reporter, stop, wait_seconds=wait_seconds) as run:
        repair_records(run)
        paths = run.paths
        lab = _open(run)
        handlers = {kind: handler for kind, handler in lab.handlers.items() if kind in GPU_KINDS}
        plan = plan_release(name, run.state, handlers)
        if plan.is_empty and not paths.root.exists():
            raise UsageError(f"there is no lab {name}", fix="hyperscaler status lists the labs")
        if plan.is_empty:
            return ReleaseResult(plan)
        refuse_running(lab, run.state)
        if not confirm(plan):
            return ReleaseResult(plan, declined=True)
        paths.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        run.store.rewrite_damaged()
        run.begin()
        record_found(lab, plan, run.store)
        try:
            Executor(handlers, run.store, reporter, stop=stop).apply(plan)
        finally:
            write_mdev_map(paths, run.state)
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


def _open(run: LockedRun) -> Lab:
    gpu = recorded_backend(run.env, run.name, run.state)
    return open_lab(run.env, run.record, dataclasses.replace(recorded_backends(run.state), gpu=gpu))


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
