"""Rules of GPU instances and compute instances: placements, mutual exclusion, and removal.

Geometry comes from the GPU's placements alone: memory slices must not overlap. The hardware also refuses more instances
than the GPU holds, and media engines for a second instance.
"""

from __future__ import annotations

from collections.abc import Sequence

from emulator.adapters.simulated.nvml.engine import (
    IN_USE,
    INSUFFICIENT_RESOURCES,
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    NvmlReturnError,
    gpu_model,
    profile_of,
    require_capable,
    require_mig,
)
from emulator.adapters.simulated.nvml.store import SimCompute, SimGpu, SimInstance
from emulator.gpu.model import GpuModel, MigProfile, Placement

# Compute instance profiles by the compute slices of their GPU instance (a 3g holds 1c, 2c, 3c).
_COMPUTE_SIZES = {1: (1,), 2: (1, 2), 3: (1, 2, 3), 4: (1, 2, 4), 7: (1, 2, 3, 4, 7)}
# NVML_COMPUTE_INSTANCE_PROFILE_<n>_SLICE of nvml.h; on the GPUs seen, `info.id` equals the index.
_COMPUTE_PROFILE = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4, 8: 5, 6: 6}
COMPUTE_PROFILE_COUNT = 9


def profile_at(gpu: SimGpu, index: int) -> MigProfile:
    """The profile at an index of the enumeration.

    NOT_SUPPORTED: the GPU lacks it. INVALID_ARGUMENT: past the last index that this driver knows. As on hardware (H100,
    driver 580.159.04), profiles, placements and capacity are also reported while MIG is off.
    """
    if not 0 <= index < 0x11:
        raise NvmlReturnError(INVALID_ARGUMENT)
    for profile in gpu_model(gpu.model).profiles:
        if profile.nvml_profile == index:
            return profile
    raise NvmlReturnError(NOT_SUPPORTED)


def placements(gpu: SimGpu, profile_id: int) -> tuple[Placement, ...]:
    """All placements of a profile, occupied or not."""
    require_capable(gpu)
    return profile_of(gpu, profile_id).placements or ()


def free_placements(gpu: SimGpu, profile: MigProfile) -> list[Placement]:
    taken = [Placement(item.start, item.size) for item in gpu.instances]
    return [place for place in profile.placements or () if not any(place.overlaps(other) for other in taken)]


def allowance(gpu: SimGpu, profile: MigProfile) -> int:
    """How many more instances of a profile the GPU could hold by number, regardless of placements."""
    model = gpu_model(gpu.model)
    existing = [profile_of(gpu, item.profile_id) for item in gpu.instances]
    same = sum(item.gi_profile_id == profile.gi_profile_id for item in existing)
    most = min(profile.max_instances - same, model.max_gpu_instances - len(existing))
    if profile.media_extensions and any(item.media_extensions for item in existing):
        return 0
    if profile.takes_all_media and any(not item.without_media for item in existing):
        return 0
    if not profile.without_media and any(item.takes_all_media for item in existing):
        return 0
    return max(0, most)


def remaining_capacity(gpu: SimGpu, profile_id: int) -> int:
    """How many more instances of the profile fit into what is free now."""
    require_capable(gpu)
    profile = profile_of(gpu, profile_id)
    fitting, end = 0, 0
    for place in free_placements(gpu, profile):  # all have one size: taking the earliest each time is optimal
        if place.start >= end:
            fitting, end = fitting + 1, place.end
    return min(fitting, allowance(gpu, profile))


def create(gpu: SimGpu, profile_id: int, wanted: Placement | None) -> SimInstance:
    """Create an instance, exactly at `wanted` or at the first free placement."""
    require_mig(gpu)
    profile = profile_of(gpu, profile_id)
    if wanted is not None and wanted not in (profile.placements or ()):
        raise NvmlReturnError(INVALID_ARGUMENT)
    free = free_placements(gpu, profile)
    if not free or (wanted is not None and wanted not in free) or not allowance(gpu, profile):
        raise NvmlReturnError(INSUFFICIENT_RESOURCES)
    place = wanted or free[0]
    made = SimInstance(_instance_id(gpu_model(gpu.model), place), profile_id, place.start, place.size)
    gpu.instances.append(made)
    gpu.instances.sort(key=lambda item: item.start)
    return made


def _instance_id(model: GpuModel, place: Placement) -> int:
    """The driver's id: 0 the whole GPU, 1-2 halves, 3-6 quarters, 7-14 eighths.

    The numbering of halves and quarters differs between GPUs. Counting backwards on all except Ampere keeps callers
    from deriving the start from the id.
    """
    slices = model.memory_slices or 8
    pieces = slices // place.size
    number = place.start // place.size
    if model.architecture != "ampere":
        number = pieces - 1 - number
    return pieces - 1 + number


def destroy(gpu: SimGpu, item: SimInstance) -> None:
    """IN_USE while a compute instance, a process or a vGPU is in it."""
    held = item.compute or any(vgpu.gi_id == item.id for vgpu in gpu.vgpus)
    if held or any(process.gi_id == item.id for process in gpu.processes):
        raise NvmlReturnError(IN_USE)
    gpu.instances.remove(item)


def of_profile(gpu: SimGpu, profile_id: int) -> list[SimInstance]:
    require_capable(gpu)
    profile_of(gpu, profile_id)
    return [item for item in gpu.instances if item.profile_id == profile_id]


# ---------------------------------------------------------------- compute instances
def compute_slices(gpu: SimGpu, item: SimInstance, profile_index: int) -> int:
    """Slices of a compute instance profile by its index; NOT_SUPPORTED if the GPU instance lacks it."""
    if not 0 <= profile_index < COMPUTE_PROFILE_COUNT:
        raise NvmlReturnError(INVALID_ARGUMENT)
    whole = profile_of(gpu, item.profile_id).compute_slices
    for size in _COMPUTE_SIZES.get(whole, (whole,)):
        if _COMPUTE_PROFILE[size] == profile_index:
            return size
    raise NvmlReturnError(NOT_SUPPORTED)


def compute_starts(gpu: SimGpu, item: SimInstance, size: int) -> list[int]:
    """Compute slices where an instance of `size` could start now."""
    whole = profile_of(gpu, item.profile_id).compute_slices
    taken = [Placement(other.start, other.size) for other in item.compute]
    places: Sequence[Placement] = [Placement(start, size) for start in range(0, whole - size + 1, size)]
    return [place.start for place in places if not any(place.overlaps(other) for other in taken)]


def create_compute(gpu: SimGpu, item: SimInstance, profile_id: int) -> SimCompute:
    size = compute_slices(gpu, item, profile_id)
    starts = compute_starts(gpu, item, size)
    if not starts:
        raise NvmlReturnError(INSUFFICIENT_RESOURCES)
    number = next(n for n in range(8) if all(other.id != n for other in item.compute))
    made = SimCompute(number, profile_id, starts[0], size)
    item.compute.append(made)
    return made


def destroy_compute(gpu: SimGpu, item: SimInstance, compute: SimCompute) -> None:
    if any(process.gi_id == item.id for process in gpu.processes):
        raise NvmlReturnError(IN_USE)
    item.compute.remove(compute)
