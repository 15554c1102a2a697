"""Destroy: remove everything that a lab owns. The same machinery with an empty wish, then the lab's own directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emulator.apply.executor import Executor
from emulator.apply.hypervisor_location import forget_hypervisor
from emulator.apply.state import State
from emulator.core.errors import HyperscalerError, UsageError
from emulator.core.fs import private_directory, sync
from emulator.core.hypervisors import EMBEDDED, SYSTEM_URI
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.lab.environment import Environment
from emulator.lab.lab import Backends, Lab, open_lab
from emulator.lab.lab_files import load_recorded_lab
from emulator.lab.open_journal import LabRecord
from emulator.lab.planning.plan import (
    HYPERVISOR_FACT,
    plan_destroy,
    recorded_backends,
    recorded_hypervisor,
    refuse_blocked,
    system_may_have,
)
from emulator.lab.recovery.foreign_files import refuse_foreign_files
from emulator.lab.recovery.ledger_repair import repair_records
from emulator.lab.recovery.orphaned_gpus import has_gpus, left_on_gpus, record_found, what_may_be_left
from emulator.lab.run import LockedRun, locked_run
from emulator.labfile.model import GpuBackend
from emulator.operations.host.autostart import forget_autostart, has_autostart
from emulator.plan.gpu_resources import GpuResource
from emulator.plan.model import Plan

Part = tuple[Lab, Plan]
"""The lab on one hypervisor, and what is removed there."""


@dataclass(frozen=True, slots=True)
class DestroyResult:
    """`declined`: the user said no. `missing`: there is no such lab, which `missing_ok` allowed."""

    plan: Plan
    declined: bool = False
    missing: bool = False


def destroy(
    env: Environment,
    name: str,
    reporter: Reporter,
    stop: StopFlag,
    *,
    confirm: Callable[[Plan], bool],
    wait_seconds: float = 0.0,
    missing_ok: bool = False,
) -> DestroyResult:
    """Remove everything that the lab owns; golden images stay.

    Works from the journal and, where that is lost, from the marks on the host. A failure keeps the record, so
    that the next destroy goes on.

    Raises:
        UsageError: there is no such lab, neither on record nor on the host; not with `missing_ok`.
        ConflictError: something in the lab's directory is not the lab's, its journal is another lab's (the directory
            was copied or renamed), or a domain that has lost the lab's mark has a node's UUID, or a foreign one runs
            on a node's disk; nothing was removed.
        HyperscalerError: something could not be removed; or everything that can be attributed to the lab was, and with
            the record lost there may be more of it on the GPUs.
    """
    with locked_run(env, name, "destroy", reporter, stop, wait_seconds=wait_seconds) as run:
        repair_records(run)
        parts = [(lab, plan_destroy(lab, state)) for lab, state in _open(run)]
        plan = _joined(name, [part for _, part in parts])
        if plan.is_empty and not _has_traces(run):
            if missing_ok:
                return DestroyResult(plan, missing=True)
            fix = "hyperscaler status lists the labs"
            raise UsageError(f"there is no lab {name}", fix=fix)
        refuse_blocked(plan)
        refuse_foreign_files(env, run.record)
        if not confirm(plan):
            return DestroyResult(plan, declined=True)
        _begin(run, parts)
        left = _apply(run, parts)
        # A user may have put something there in the meantime.
        refuse_foreign_files(env, run.record, kept="the lab is gone, but its directory stays")
        _remove_directory(run.record)
        for trace in env.guest_accounts.release(name):
            reporter.warn(f"{trace} belongs to an account of a guest of this lab; the account is given to nobody else")
        forget_hypervisor(run.record.home, name)
        if left:
            raise what_may_be_left(name, left)
        return DestroyResult(plan)


def _joined(name: str, parts: Sequence[Plan]) -> Plan:
    return Plan(
        name,
        tuple(change for part in parts for change in part.changes),
        tuple(blocker for part in parts for blocker in part.blockers),
        tuple(note for part in parts for note in part.notes),
    )


def _has_traces(run: LockedRun) -> bool:
    """Whether there is something of the lab besides what a plan removes."""
    known = run.record.home.hypervisor_of(run.name)
    on_record = known.exists() or run.env.guest_accounts.knows(run.name)
    return run.paths.root.exists() or on_record or has_autostart(run.env, run.name)


def _begin(run: LockedRun, parts: Sequence[Part]) -> None:
    private_directory(run.paths.root)
    run.store.rewrite_damaged()
    run.begin()
    # First of all, lest after a power cut half way the unit makes the whole lab again when the host boots.
    forget_autostart(run.env, run.name)
    run.env.guests.end_work(run.paths)
    for lab, part in parts:
        record_found(lab, part, run.store)


def _apply(run: LockedRun, parts: Sequence[Part]) -> list[str]:
    """Carry the plans out; commands that remove what is left on GPUs and may have been the lab's."""
    for lab, part in parts:
        _revive(lab, run.reporter)
        Executor(lab.handlers, run.store, run.reporter, stop=run.stop).apply(part)
    return [line for lab, _ in parts for line in left_on_gpus(lab, run.state, run.reporter)]


def _revive(lab: Lab, reporter: Reporter) -> None:
    """Start a private libvirtd that died: its guests still hold disks and GPUs, and must go first, in order."""
    try:
        lab.session.revive()
    except HyperscalerError as error:
        # Deleting the hypervisor ends the guests all the same, by their processes.
        reporter.warn(f"the lab's hypervisor cannot be started again: {error.what}")


def _open(run: LockedRun) -> list[tuple[Lab, State]]:
    """The lab on its recorded hypervisor, with its state.

    Where the hypervisor is not on record (the journal is lost or damaged), the lab is searched for by its marks on each
    hypervisor that may have it. Domains that are found that way are removed first, since they may hold recorded disks
    and GPU slices.
    """
    env, record, state = run.env, run.record, run.state
    gpu = recorded_backends(state).gpu or _gpu_backend(env, record)
    if hypervisor := recorded_hypervisor(env, record):
        return [(open_lab(env, record, Backends(hypervisor, gpu)), state)]
    elsewhere = [open_lab(env, record, Backends(uri)) for uri in _elsewhere(env, record)]
    embedded = open_lab(env, record, Backends(EMBEDDED, gpu), elsewhere=elsewhere)
    return [*((lab, State()) for lab in elsewhere), (embedded, state)]


def _elsewhere(env: Environment, record: LabRecord) -> tuple[str, ...]:
    """The URI of a libvirt that may have the lab; empty if none can have it.

    Raises:
        HypervisorError: the host's own libvirt may have it and does not answer.
    """
    requested = _requested_hypervisor(record)
    if requested == EMBEDDED:
        return ()
    if requested != "auto":
        return (requested,)
    return (SYSTEM_URI,) if system_may_have(env, record.name) else ()


def _gpu_backend(env: Environment, record: LabRecord) -> str:
    """The GPUs of a lab whose journal does not say which: by the lab's directory, or by the host's GPU ledger.

    With the journal lost, the host's GPUs are looked at in any case.
    """
    if record.paths.gpu.is_dir():
        return GpuBackend.SIMULATED.value
    on_record = any(isinstance(item.resource, GpuResource) for item in record.state.resources.values())
    if on_record or env.gpu_ledger.of(record.name):
        return GpuBackend.NVML.value
    lost = HYPERVISOR_FACT not in record.state.facts
    return GpuBackend.NVML.value if lost and has_gpus(env) else ""


def _requested_hypervisor(record: LabRecord) -> str:
    """The hypervisor that the file asked for when it was last provisioned; `auto` where the file is lost as well."""
    try:
        return load_recorded_lab(record.home, record.name).spec.hypervisor.uri
    except HyperscalerError:
        return "auto"


def _remove_directory(record: LabRecord) -> None:
    root = record.paths.root
    try:
        shutil.rmtree(root)
        sync(root.parent)
    except OSError as error:
        raise HyperscalerError(
            f"the lab is gone, but its directory cannot be removed: {error.strerror}",
            where=str(error.filename),
            fix="remove what is in the way, then run the same command again",
        ) from error
