"""Switching MIG mode: what the driver's answer means, who is in the way, and taking back what did not take effect."""

from __future__ import annotations

from emulator.gpu.errors import GpuBusyError, GpuNotSupportedError, GpuResetRequiredError
from emulator.gpu.ports import MigActivation, MigModeState, NvmlGpus, PciBus, others
from emulator.plan.gpu_resources import MigMode


def required_mig_mode(nvml: NvmlGpus, resource: MigMode) -> MigModeState:
    """The GPU's MIG mode.

    Raises:
        GpuNotSupportedError: it has none.
    """
    mode = nvml.mig_mode(resource.pci_address)
    if mode is None:
        raise GpuNotSupportedError(
            f"{resource.device} has no MIG", where=resource.pci_address, fix="use the GPU as a whole"
        )
    return mode


def switch_mig_mode(nvml: NvmlGpus, pci: PciBus, resource: MigMode, *, enabled: bool) -> None:
    """Set MIG mode so that it is in force at once, or leave it as it was.

    A change that would wait for a reset is taken back: else the GPU changes under whoever resets it next.

    Raises:
        GpuBusyError: somebody has the GPU; names them.
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
            fix="stop these (often nvidia-persistenced, DCGM or a display server), then run the command again",
        )
    raise GpuResetRequiredError(
        f"MIG mode of {resource.device} changes only with a reset of the GPU: {who}; {state}",
        where=resource.pci_address,
        fix=f"nvidia-smi -i {resource.pci_address} -mig {int(enabled)}, then nvidia-smi --gpu-reset "
        f"-i {resource.pci_address} when nothing uses it, or reboot; then run this again",
    )


def _holders(nvml: NvmlGpus, pci: PciBus, pci_address: str) -> str:
    """Who has the GPU: processes that compute on it, and those that merely have its device node open."""
    gpu = next((item for item in nvml.gpus() if item.pci_address == pci_address), None)
    found = {process.pid: process.name for process in nvml.processes(pci_address)}
    if gpu is not None and gpu.minor_number is not None:
        found |= {holder.pid: holder.name for holder in others(pci.holders(f"/dev/nvidia{gpu.minor_number}"))}
    named = ", ".join(f"{name} (pid {pid})" for pid, name in sorted(found.items()))
    return f"held by {named}" if named else "the driver does not say what holds it"
