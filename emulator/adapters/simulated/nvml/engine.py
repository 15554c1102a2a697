"""Rules of simulated GPUs: what exists, MIG mode, resets, reboots and reloads of the driver.

Pure operations on a `SimState`. A refusal is an `NvmlReturnError` with the real library's return code; the ctypes layer
returns that code, sysfs turns it into an errno.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from emulator.adapters.simulated.nvml.store import SimGpu, SimInstance, SimState
from emulator.core.errors import StateError
from emulator.gpu.catalog import find_gpu
from emulator.gpu.model import GpuModel, MigProfile, Placement, VgpuType

# Return codes of nvml.h.
SUCCESS = 0
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
RESET_REQUIRED = 16
IN_USE = 19
INSUFFICIENT_RESOURCES = 23
ARGUMENT_VERSION_MISMATCH = 25

# First number for vGPU types without a published number. Types are looked up by name.
_FIRST_MADE_UP_TYPE = 9000


class NvmlReturnError(Exception):
    """A refusal with the return code `code`."""

    def __init__(self, code: int) -> None:
        super().__init__(f"NVML return code {code}")
        self.code = code


@cache
def gpu_model(model: str) -> GpuModel:
    """The catalogue's GPU, with its geometry completed and every vGPU type numbered.

    The start list of the RTX PRO 6000 is not public. A simulated one follows the general rule of NVIDIA's mock
    documentation: sizes are powers of two and starts are aligned to them.
    """
    found = find_gpu(model)
    if found is None:
        raise StateError(
            f"the state of the simulated GPUs names the GPU model {model!r}, which is not known",
            fix="remove gpus.json from the lab's directory; the simulated GPUs then start empty",
        )
    slices = found.memory_slices or found.compute_slices
    profiles = tuple(_completed(found, profile, slices) for profile in found.profiles)
    types = tuple(_numbered(found, item, at) for at, item in enumerate(found.time_sliced_types))
    return replace(found, memory_slices=slices, profiles=profiles, time_sliced_types=types)


def _completed(gpu: GpuModel, profile: MigProfile, slices: int) -> MigProfile:
    size = profile.memory_slices or profile.compute_slices
    placements = profile.placements or tuple(Placement(start, size) for start in range(0, slices - size + 1, size))
    memory = profile.memory_mib or (gpu_memory(gpu) // slices * size)
    types = tuple(_numbered(gpu, item, 50 + at) for at, item in enumerate(profile.vgpu_types))
    return replace(profile, placements=placements, memory_slices=size, memory_mib=memory, vgpu_types=types)


def _numbered(gpu: GpuModel, item: VgpuType, at: int) -> VgpuType:
    if item.type_id is not None:
        return item
    # By the device id, so that two models never share a number.
    device = int(gpu.pci_ids[0].rpartition(":")[2], 16)
    return replace(item, type_id=_FIRST_MADE_UP_TYPE + device * 100 + at)


def gpu_memory(model: GpuModel) -> int:
    """Total memory in MiB; the marketing figure if no listing is public."""
    return model.memory_mib or (model.marketing_memory_gb or 24) * 1024


def find(state: SimState, minor: int) -> SimGpu:
    """The GPU of a handle; a lost one answers every call with GPU_IS_LOST."""
    gpu = next((item for item in state.gpus if item.minor == minor and item.driver == "nvidia"), None)
    if gpu is None:
        raise NvmlReturnError(INVALID_ARGUMENT)
    if gpu.lost:
        raise NvmlReturnError(GPU_IS_LOST)
    return gpu


def visible(state: SimState) -> list[SimGpu]:
    """GPUs that NVML lists, which are bound to the nvidia driver, in PCI order."""
    return sorted((item for item in state.gpus if item.driver == "nvidia"), key=lambda item: item.pci_address)


def profile_of(gpu: SimGpu, profile_id: int) -> MigProfile:
    """The profile that management calls mean by `profile_id` (`info.id`, not the enumeration index)."""
    for profile in gpu_model(gpu.model).profiles:
        if profile.gi_profile_id == profile_id:
            return profile
    raise NvmlReturnError(INVALID_ARGUMENT)


def require_capable(gpu: SimGpu) -> None:
    if not gpu_model(gpu.model).mig_capable:
        raise NvmlReturnError(NOT_SUPPORTED)


def require_mig(gpu: SimGpu) -> None:
    if not gpu.mig:
        raise NvmlReturnError(NOT_SUPPORTED)


def in_use(gpu: SimGpu) -> bool:
    """Whether a user of the GPU keeps the driver from resetting it."""
    return bool(gpu.processes or gpu.vgpus or any(item.compute for item in gpu.instances))


# ---------------------------------------------------------------- MIG mode
def mig_mode(gpu: SimGpu) -> tuple[bool, bool]:
    if not gpu_model(gpu.model).mig_capable:
        raise NvmlReturnError(NOT_SUPPORTED)
    return gpu.mig, gpu.pending


def set_mig_mode(gpu: SimGpu, mode: int) -> int:
    """Set the MIG mode and return the activation status.

    Ampere resets the GPU, which is impossible while it is open: the mode stays pending (IN_USE as the status of a
    successful call). Hopper and later need no reset. Turning MIG off is refused while VFs or instances exist.
    """
    facts = gpu_model(gpu.model)
    if facts.mode is None:
        raise NvmlReturnError(NOT_SUPPORTED)
    if mode not in (0, 1):
        raise NvmlReturnError(INVALID_ARGUMENT)
    wanted = bool(mode)
    if not wanted and gpu.mig and (gpu.numvfs or gpu.instances or gpu.vgpus):
        raise NvmlReturnError(IN_USE)
    gpu.pending = wanted
    if wanted == gpu.mig:
        return SUCCESS
    # Without a reset, monitoring clients that only have the device open do no harm.
    working = any(not item.client for item in gpu.processes)
    if in_use(gpu) if facts.mode.enable_needs_gpu_reset else working:
        return IN_USE
    gpu.mig = wanted
    return SUCCESS


def reset(gpu: SimGpu) -> None:
    """Reset the GPU: the pending mode takes effect and all instances are gone. IN_USE while it is held."""
    if in_use(gpu) or gpu.held:
        raise NvmlReturnError(IN_USE)
    gpu.instances.clear()
    gpu.mig = gpu.pending


# ---------------------------------------------------------------- losing things
def reboot(state: SimState, boot_id: str) -> None:
    """Reboot the host: VFs, instances and vGPUs are gone; MIG mode stays on Ampere only."""
    for gpu in state.gpus:
        gpu.lost = gpu.held = False
        gpu.driver, gpu.override = "nvidia", ""
        gpu.processes.clear()
        _forget(gpu)
    state.boot_id = boot_id
    state.driver_loaded = True
    state.driver_loads += 1


def reload_driver(state: SimState) -> None:
    """`modprobe -r nvidia && modprobe nvidia`: like a reboot for the GPUs, but the host keeps running."""
    for gpu in state.gpus:
        gpu.lost = False
        _forget(gpu)
    state.driver_loads += 1


def _forget(gpu: SimGpu) -> None:
    gpu.instances.clear()
    gpu.vgpus.clear()
    gpu.numvfs = 0
    facts = gpu_model(gpu.model).mode
    persists = facts is not None and facts.mode_persists_reboot
    gpu.mig = gpu.pending = gpu.pending and persists


def instance(gpu: SimGpu, gi_id: int) -> SimInstance:
    """The GPU instance with the driver's id; NOT_FOUND if there is none."""
    for item in gpu.instances:
        if item.id == gi_id:
            return item
    raise NvmlReturnError(NOT_FOUND)
