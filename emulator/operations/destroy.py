"""Destroy: the same machinery with an empty wish, then the lab's own directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

from emulator.apply.executor import Executor
from emulator.apply.hypervisor_location import forget_hypervisor
from emulator.apply.state import State
from emulator.core.errors import HyperscalerError, UsageError
from emulator.core.fs import private_directory, sync
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.lab.environment import EMBEDDED, SYSTEM, World
from emulator.lab.lab import Backends, Lab, open_lab
from emulator.lab.lab_files import load_recorded_lab
from emulator.lab.locked_run import tell_damage, working_on
from emulator.lab.open_journal import open_record
from emulator.lab.planning.plan import (
    HYPERVISOR_FACT,
    plan_destroy,
    recorded_backends,
    recorded_hypervisor,
    refuse_blocked,
    system_may_have,
)
from emulator.lab.recovery.foreign_files import refuse_strangers
from emulator.lab.recovery.ledger_repair import mend_ledgers
from emulator.lab.recovery.orphaned_gpus import has_gpus, keep_found, left_on_gpus, what_may_be_left
from emulator.labfile.model import GpuBackend
from emulator.operations.host.autostart import forget_autostart, has_autostart
from emulator.plan.gpu_resources import GpuResource
from emulator.plan.model import Plan


@dataclass(frozen=True, slots=True)
class DestroyResult:
    """`declined`: the person said no. `missing`: there is no such lab, which `missing_ok` allowed."""

    plan: Plan
    declined: bool = False
    missing: bool = False


def destroy(
    world: World,
    name: str,
    reporter: Reporter,
    stop: StopFlag,
    *,
    confirm: Callable[[Plan], bool],
    wait_seconds: float = 0.0,
    missing_ok: bool = False,
) -> DestroyResult:
    """Take away everything that the lab owns; golden images stay.

    Works from the journal and, where that is lost, from the marks on the host. A failure keeps the record, so
    that the next destroy goes on.

    Raises:
        UsageError: there is no such lab, neither on record nor on the host; not with `missing_ok`.
        ConflictError: something in the lab's directory is not the lab's, its journal is another lab's (the directory
            was copied or renamed), or a machine that cannot be told to be the lab's has a node's UUID or runs on a
            node's disk; nothing was taken away.
        HyperscalerError: something could not be taken away; or everything that can be told was, and with the record
            lost nobody knows whether more on the GPUs was the lab's.
    """
    with working_on(world, name, "destroy", reporter, wait_seconds=wait_seconds, stop=stop) as work:
        world, store = open_record(world, name)
        paths = world.home.lab(name)
        tell_damage(store, reporter)
        mend_ledgers(world, name, reporter)
        plans = [(lab, plan_destroy(lab, state)) for lab, state in _open(world, name, store.state)]
        plan = Plan(
            name,
            tuple(change for _, plan in plans for change in plan.changes),
            tuple(blocker for _, plan in plans for blocker in plan.blockers),
            tuple(note for _, plan in plans for note in plan.notes),
        )
        traces = paths.root.exists() or world.home.hypervisor_of(name).exists() or has_autostart(world, name)
        if plan.is_empty and not traces and missing_ok:
            return DestroyResult(plan, missing=True)
        if plan.is_empty and not traces:
            raise UsageError(f"there is no lab {name}", where=str(paths.root), fix="hyperscaler status lists the labs")
        refuse_blocked(plan)
        refuse_strangers(world, name, store.state)
        if not confirm(plan):
            return DestroyResult(plan, declined=True)
        private_directory(paths.root)
        store.rewrite_damaged()
        work.begin(store)
        # First of all, lest a power cut half way has the unit make the whole lab again when the machine starts.
        forget_autostart(world, name)
        world.guests.end_work(paths)
        for lab, part in plans:
            keep_found(lab, part, store)
        for lab, part in plans:
            _revive(lab, reporter)
            Executor(lab.handlers, store, reporter, stop=stop).apply(part)
        left = [line for lab, _ in plans for line in left_on_gpus(lab, store.state, reporter)]
        # Somebody may have put something there in the meantime.
        refuse_strangers(world, name, store.state, kept="the lab is gone, but its directory stays")
        _remove_directory(world, name)
        forget_hypervisor(world.home, name)
        if left:
            raise what_may_be_left(name, left)
        return DestroyResult(plan)


def _revive(lab: Lab, reporter: Reporter) -> None:
    """Guests of a libvirtd that died still hold disks and GPUs; they must go first, and in order."""
    try:
        lab.session.revive()
    except HyperscalerError as error:
        # Its end takes the guests with it all the same, by their processes.
        reporter.warn(f"the lab's hypervisor cannot be started again: {error.what}")


def _open(world: World, name: str, state: State) -> list[tuple[Lab, State]]:
    """The lab on the hypervisor that it is recorded on, with its record.

    Where the record does not say which (it is lost or damaged), the lab is looked for by its marks on each one that
    may have it. Guests that are found so go first, since they may hold what is on record: disks, slices of GPUs.
    """
    recorded = recorded_backends(state)
    gpu = recorded.gpu or _gpu_backend(world, name, state)
    if hypervisor := recorded_hypervisor(world, state, name):
        return [(open_lab(world, name, Backends(hypervisor, gpu)), state)]
    elsewhere = [open_lab(world, name, Backends(uri)) for uri in _elsewhere(world, name)]
    embedded = open_lab(world, name, Backends(EMBEDDED, gpu), elsewhere=elsewhere)
    return [*((lab, State()) for lab in elsewhere), (embedded, state)]


def _elsewhere(world: World, name: str) -> tuple[str, ...]:
    """The URI of a libvirt that may have the lab; none where surely none has.

    Raises:
        HypervisorError: the host's own libvirt may have it and does not answer.
    """
    requested = _requested_hypervisor(world, name)
    if requested == EMBEDDED:
        return ()
    if requested != "auto":
        return (requested,)
    return (SYSTEM,) if system_may_have(world, name) else ()


def _gpu_backend(world: World, name: str, state: State) -> str:
    """Which GPUs a lab has something of whose record does not say so: the host's ledger and its directory tell. With
    the record lost, the host's GPUs are looked at in any case."""
    if world.home.lab(name).gpu.is_dir():
        return GpuBackend.SIMULATED.value
    on_record = any(isinstance(record.resource, GpuResource) for record in state.resources.values())
    if on_record or world.gpu_ledger.of(name):
        return GpuBackend.NVML.value
    lost = HYPERVISOR_FACT not in state.facts
    return GpuBackend.NVML.value if lost and has_gpus(world) else ""


def _requested_hypervisor(world: World, name: str) -> str:
    """What the file asked for as it was last provisioned; `auto` where it is lost, too."""
    try:
        return load_recorded_lab(world.home, name).spec.hypervisor.uri
    except HyperscalerError:
        return "auto"


def _remove_directory(world: World, name: str) -> None:
    root = world.home.lab(name).root
    try:
        shutil.rmtree(root)
        sync(root.parent)
    except OSError as error:
        raise HyperscalerError(
            f"the lab is gone, but its directory cannot be removed: {error.strerror}",
            where=str(error.filename),
            fix="remove what is in the way, then run the same command again",
        ) from error
