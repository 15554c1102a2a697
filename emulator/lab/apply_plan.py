"""From an agreed plan to the host: begin to change, claim GPUs, carry out the plan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from uuid import UUID

from emulator.apply.executor import Executor
from emulator.apply.gpu_ownership import slice_key
from emulator.apply.hypervisor_location import remember_hypervisor
from emulator.core.errors import ConflictError, HyperscalerError
from emulator.core.fs import private_directory, write_private
from emulator.core.ports import DomainInfo
from emulator.host.acceleration import AccelerationDecision
from emulator.lab.boots.boot_gate import BootGate
from emulator.lab.cluster_pipeline import CONFIGURE_FACT, VERIFY_FACT
from emulator.lab.drain import drain_departing
from emulator.lab.mdev_map import write_mdev_map
from emulator.lab.planning.gpu_placement import (
    GPU_FACT,
    changes_besides_slices,
    gpu_layout_held,
    slices_to_make,
)
from emulator.lab.planning.kubernetes_on_disks import forget_upgrade
from emulator.lab.planning.plan import HYPERVISOR_FACT, plan_lab, refuse_blocked
from emulator.lab.recovery.orphaned_gpus import record_found
from emulator.lab.run import LabRun
from emulator.labfile.model import ClusterKind
from emulator.plan.model import Action, Plan
from emulator.plan.resources import Domain


def begin_changes(run: LabRun, source: bytes) -> None:
    """Note that the lab is changed from here on, on which backends, and keep `source`, the bytes of its file."""
    # Before anything in it is: as a missing parent it would get the mode of the umask.
    for directory in (run.paths.root, run.paths.logs, run.paths.console, run.paths.secrets):
        private_directory(directory)
    kept = run.store.rewrite_damaged()
    run.begin(**({"damaged_journal": str(kept)} if kept else {}))
    write_private(run.paths.spec, source)
    backends = run.lab.backends
    remember_hypervisor(run.record.home, run.name, backends.hypervisor)
    for phase in (CONFIGURE_FACT, VERIFY_FACT):
        if run.state.facts.get(phase, "pending") != "pending":
            run.store.fact(phase, "pending")
    for name, value in ((HYPERVISOR_FACT, backends.hypervisor), (GPU_FACT, backends.gpu)):
        if run.state.facts.get(name, "") != value:
            run.store.fact(name, value)
    run.lab.allow_changes()


def claim_gpus(run: LabRun, agreed: Plan, acceleration: AccelerationDecision) -> Plan:
    """The agreed plan with the places of its slices claimed in the GPU ledger.

    Between the plan and the agreement other labs may have taken a place. So the lab is planned for once more while
    nobody else can change the layout of the GPUs, and slices whose place was taken go elsewhere. No other change may
    differ from the agreed ones.

    Raises:
        ConflictError: the slices fit nowhere else, or not without changing more than was agreed to.
    """
    record_found(run.lab, agreed, run.store)
    if run.lab.gpus is None or not slices_to_make(agreed):
        return agreed
    with gpu_layout_held(run.lab.gpus):
        plan = plan_lab(run.lab, run.state, run.spec, acceleration)
        if plan.digest != agreed.digest:
            _require_agreed(plan, agreed)
            run.reporter.warn("another lab has taken places on the GPUs in the meantime; the slices go to others")
        for item in slices_to_make(plan):
            run.lab.gpus().ledger.claim(slice_key(item.pci_address, item.profile, item.start), run.name)
    return plan


def _require_agreed(plan: Plan, agreed: Plan) -> None:
    refuse_blocked(plan)
    if changes_besides_slices(plan) != changes_besides_slices(agreed):
        raise ConflictError(
            "nothing was changed: since the plan was made, the host has changed",
            fix="run the same command again, it plans anew",
        )


def apply_plan(run: LabRun, plan: Plan, ready: Callable[[ClusterKind], None]) -> HyperscalerError | None:
    """Drain the Kubernetes nodes that leave, carry out the plan, and bring the map of GPU devices up to date.

    When a change fails, the rest of the plan is carried out as far as it does not depend on it. The map is written in
    any case.

    Args:
        run: the command.
        plan: what was agreed to.
        ready: called with each cluster that has everything that it needs, as soon as it has; it must return at once.

    Returns:
        The first failure, or that a stop was asked for; None when all is done.

    Raises:
        ConflictError: a node that leaves cannot be drained; nothing was changed.
    """
    pace = run.pace
    drain_departing(plan, run.spec, run.shell, run.reporter, run.stop, pace)
    forget_upgrade(run.store, run.spec, plan)
    if plan.changes and pace.factor > 1.0:
        run.reporter.note(f"this host: {pace}")
    starts = sum(isinstance(change.resource, Domain) and change.action is not Action.DELETE for change in plan.changes)
    gate = BootGate(pace, partial(_domain_of, run)) if starts > pace.boots else None
    executor = Executor(run.lab.handlers, run.store, run.reporter, stop=run.stop, gate=gate)
    kinds = {kind.value: kind for kind in run.spec.clusters}
    error = executor.run(plan, tuple(kinds), lambda cluster: ready(kinds[cluster]))
    try:
        write_mdev_map(run.paths, run.state)
    except HyperscalerError as fault:
        return error or fault  # the first one is the one to report
    except OSError:
        if error is None:
            raise
    return error


def _domain_of(run: LabRun, resource: Domain) -> DomainInfo | None:
    """The domain as it is now; None when there is none, or its hypervisor does not run yet or does not answer, which
    is for the step itself to say."""
    with contextlib.suppress(HyperscalerError):
        hypervisor = run.lab.session.peek()
        return hypervisor.domain_by_uuid(UUID(resource.uuid)) if hypervisor is not None else None
    return None
