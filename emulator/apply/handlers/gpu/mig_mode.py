"""MIG mode of a GPU: switched on for the lab's slices, and off again when the lab was the one to switch it on."""

from __future__ import annotations

from collections.abc import Sequence

from emulator.apply.gpu_ownership import functions_key, mode_key
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.handlers.gpu.evidence import surely_absent
from emulator.apply.handlers.gpu.host import GpuHost, Gpus
from emulator.apply.handlers.gpu.shared_settings import claimed_gpus, handed_on, has_virtual_functions, passed_through
from emulator.core.errors import GpuError
from emulator.gpu.errors import GpuBusyError, GpuNotSupportedError, GpuResetRequiredError
from emulator.gpu.ports import MigActivation, MigModeState, NvmlGpus, PciBus, others
from emulator.plan.gpu_resources import MigMode
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Resource


class MigModeHandler:
    """Turns MIG mode on. A switch without immediate effect is taken back, so that no later reset springs a surprise."""

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus

    def observe(self, resource: MigMode, record: Recorded | None) -> Observation:
        del record
        gpus = self._gpus()
        if passed_through(gpus, resource.pci_address):
            return Observation(Presence.ABSENT)  # VirtualFunctionsHandler decides whether the GPU may come back
        mode = gpus.nvml.mig_mode(resource.pci_address)
        if mode is None:
            return Observation(Presence.FOREIGN, detail=f"{resource.device} has no MIG")
        waits = "waits for a reset of the GPU" if mode.waits_for_reset else ""
        if not mode.current:
            return Observation(Presence.ABSENT, detail=waits)
        return Observation(Presence.OURS, drift=(waits,) if waits else ())

    def ensure(self, resource: MigMode, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        gpus = self._gpus()
        key = mode_key(resource.pci_address)
        with gpus.ledger.layout():
            mode = required_mig_mode(gpus.nvml, resource)
            mine = gpus.ledger.owner(key) == context.lab
            # The recorded earlier state holds only while the mode stays on: a lab that finds it off makes it anew.
            before = mode.current and context.handle(resource.id).get("was_enabled", not mine)
            if not mode.current or mode.waits_for_reset:
                if not before and gpus.ledger.owner(key) is None:
                    gpus.ledger.claim(key, context.lab)
                try:
                    switch_mig_mode(gpus.nvml, gpus.pci, resource, enabled=True)
                except GpuError:
                    if surely_absent(lambda: required_mig_mode(gpus.nvml, resource).current):
                        gpus.ledger.release(key, context.lab)
                    raise
            return {"was_enabled": before}

    def delete(self, resource: MigMode, handle: Handle, context: ApplyContext) -> None:
        gpus = self._gpus()
        key = mode_key(resource.pci_address)
        with gpus.ledger.layout():
            # With neither a handle nor a claim the earlier state is unknown, so the mode is left alone.
            if handle.get("was_enabled", True) and gpus.ledger.owner(key) != context.lab:
                return
            mode = gpus.nvml.mig_mode(resource.pci_address)
            blocked = _blocked_by_functions(gpus, resource, context.lab)
            if mode is not None and mode.current and not handed_on(gpus, resource, key, context) and not blocked:
                switch_mig_mode(gpus.nvml, gpus.pci, resource, enabled=False)
            gpus.ledger.release(key, context.lab)

    def find(self, lab: str) -> Sequence[Resource]:
        """GPUs whose MIG mode the lab switched on."""
        gpus = claimed_gpus(self._gpus(), lab, mode_key)
        return tuple(MigMode(name=gpu, device=gpu, pci_address=gpu) for gpu in gpus)


def _blocked_by_functions(gpus: GpuHost, resource: MigMode, lab: str) -> bool:
    """Whether the GPU has virtual functions of others: the driver does not leave MIG mode while there are any.

    Raises:
        GpuBusyError: they are this lab's, which should have gone first.
    """
    if not has_virtual_functions(gpus, resource.pci_address):
        return False
    if gpus.ledger.owner(functions_key(resource.pci_address)) == lab:
        raise GpuBusyError(
            f"the virtual functions of {resource.device} are still there",
            where=resource.pci_address,
            fix="run the same command again; they go before MIG mode is switched off",
        )
    return True


def required_mig_mode(nvml: NvmlGpus, resource: MigMode) -> MigModeState:
    """The GPU's MIG mode.

    Raises:
        GpuNotSupportedError: the GPU has none.
    """
    mode = nvml.mig_mode(resource.pci_address)
    if mode is None:
        raise GpuNotSupportedError(
            f"{resource.device} has no MIG", where=resource.pci_address, fix="use the GPU as a whole"
        )
    return mode


def switch_mig_mode(nvml: NvmlGpus, pci: PciBus, resource: MigMode, *, enabled: bool) -> None:
    """Set MIG mode with immediate effect, or leave it as it was.

    A change that would wait for a reset is taken back: otherwise any later reset would apply it unexpectedly.

    Raises:
        GpuBusyError: the GPU is in use; names the processes.
        GpuResetRequiredError: the driver cannot reset the GPU by itself.
    """
    before = required_mig_mode(nvml, resource)
    outcome = nvml.set_mig_mode(resource.pci_address, enabled=enabled)
    if outcome is MigActivation.ACTIVE:
        return
    who = _holders(nvml, pci, resource.pci_address)
    undone = before.pending != enabled
    if undone:
        nvml.set_mig_mode(resource.pci_address, enabled=not enabled)
    state = "the mode is as it was" if undone else "the mode still waits for a reset, as before"
    if outcome is MigActivation.IN_USE:
        raise GpuBusyError(
            f"MIG mode of {resource.device} cannot change while the GPU is in use: {who}; {state}",
            where=resource.pci_address,
            fix="stop them (often nvidia-persistenced, DCGM or a display server), then run the command again",
        )
    raise GpuResetRequiredError(
        f"MIG mode of {resource.device} changes only with a reset of the GPU: {who}; {state}",
        where=resource.pci_address,
        fix=f"nvidia-smi -i {resource.pci_address} -mig {int(enabled)}, then nvidia-smi --gpu-reset "
        f"-i {resource.pci_address} when nothing uses it, or reboot; then run this again",
    )


def _holders(nvml: NvmlGpus, pci: PciBus, pci_address: str) -> str:
    """The processes that compute on the GPU or merely have its device node open, for a message."""
    gpu = next((item for item in nvml.gpus() if item.pci_address == pci_address), None)
    found = {process.pid: process.name for process in nvml.processes(pci_address)}
    if gpu is not None and gpu.minor_number is not None:
        found |= {holder.pid: holder.name for holder in others(pci.holders(f"/dev/nvidia{gpu.minor_number}"))}
    named = ", ".join(f"{name} (pid {pid})" for pid, name in sorted(found.items()))
    return f"held by {named}" if named else "the driver does not say what holds it"
