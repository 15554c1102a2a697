"""GPU instances through pynvml: profiles, listing and destroying. Raises pynvml's own errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ctypes import byref, c_uint
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from emulator.core.ports import log
from emulator.gpu.errors import GpuBusyError
from emulator.gpu.model import GpuInstance, MigProfile, Placement
from emulator.gpu.ports import GpuProcess

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Device:
    """The pynvml module and the handle of one GPU."""

    nvml: ModuleType
    handle: object

    def optional(self, ask: Callable[[object], _T]) -> _T | None:
        """The answer, or None if GPU or driver does not support the question."""
        try:
            return ask(self.handle)
        except (
            self.nvml.NVMLError_NotSupported,
            self.nvml.NVMLError_FunctionNotFound,
            self.nvml.NVMLError_NoPermission,
            self.nvml.NVMLLibraryMismatchError,
        ):
            return None


@dataclass(frozen=True, slots=True)
class _ProfileFacts:
    """The fields that both versions of the profile struct have."""

    index: int
    id: int
    name: str
    slices: int
    count: int
    multiprocessors: int
    memory_mib: int
    media: bool


def get_profiles(device: Device, *, with_placements: bool = True) -> tuple[MigProfile, ...]:
    """The profiles of a GPU, with MIG mode on or off (a driver may not list them while it is off).

    The loop runs over the enumeration index; all later calls take `info.id`, which is another numbering.
    NOT_SUPPORTED: the GPU lacks that profile. INVALID_ARGUMENT: past the end of what the driver knows.
    """
    nvml = device.nvml
    found = []
    for index in range(nvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
        try:
            facts = _profile_facts(device, index)
        except nvml.NVMLError_NotSupported:
            continue
        except nvml.NVMLError_InvalidArgument:
            break
        places = _placements(device, facts.id) if with_placements else None
        found.append(
            MigProfile(
                name=facts.name,
                gi_profile_id=facts.id,
                nvml_profile=facts.index,
                compute_slices=facts.slices,
                memory_slices=places[0].size if places else None,
                max_instances=facts.count,
                placements=places,
                memory_mib=facts.memory_mib,
                sm_count=facts.multiprocessors,
                media_extensions=facts.media,
            )
        )
    return tuple(found)


def _profile_facts(device: Device, index: int) -> _ProfileFacts:
    nvml = device.nvml
    try:
        info = nvml.nvmlDeviceGetGpuInstanceProfileInfo(device.handle, index, version=2)
        name = str(info.name).removeprefix("MIG ").strip()
    except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_ArgumentVersionMismatch):
        # Drivers without the second version of the struct do not name profiles.
        info = nvml.nvmlDeviceGetGpuInstanceProfileInfo(device.handle, index, version=1)
        name = ""
    media = "+me" in name if name else info.jpegCount > 0 and info.sliceCount < 3
    if not name:
        name = f"{info.sliceCount}g.{-(-int(info.memorySizeMB) // 1024)}gb" + ("+me" if media else "")
    return _ProfileFacts(
        index=index,
        id=int(info.id),
        name=name,
        slices=int(info.sliceCount),
        count=int(info.instanceCount),
        multiprocessors=int(info.multiprocessorCount),
        memory_mib=int(info.memorySizeMB),
        media=media,
    )


def _placements(device: Device, profile_id: int) -> tuple[Placement, ...] | None:
    """All legal placements, in memory slices; None without permission to ask."""
    nvml = device.nvml
    count = c_uint()
    try:
        nvml.nvmlDeviceGetGpuInstancePossiblePlacements(device.handle, profile_id, None, byref(count))
        array = (nvml.c_nvmlGpuInstancePlacement_t * count.value)()
        nvml.nvmlDeviceGetGpuInstancePossiblePlacements(device.handle, profile_id, array, byref(count))
    except nvml.NVMLError_NoPermission:
        log.debug("only root can list the placements of profile %d", profile_id)
        return None
    return tuple(sorted(Placement(item.start, item.size) for item in array[: count.value]))


def _handles(device: Device, profile_id: int, most: int) -> list[object]:
    """Handles of the instances of one profile; NVML lists instances by profile only."""
    nvml = device.nvml
    array = (nvml.c_nvmlGpuInstance_t * max(1, most))()
    count = c_uint()
    nvml.nvmlDeviceGetGpuInstances(device.handle, profile_id, array, byref(count))
    return list(array[: count.value])


def instance_of(nvml: ModuleType, handle: object, names: Mapping[int, str]) -> GpuInstance:
    """A GPU instance as our type; `busy` means that it holds compute instances."""
    info = nvml.nvmlGpuInstanceGetInfo(handle)
    place = Placement(info.placement.start, info.placement.size)
    busy = bool(_compute_instances(nvml, handle))
    return GpuInstance(names.get(info.profileId, str(info.profileId)), place, int(info.id), busy=busy)


def get_instances(device: Device, profiles: tuple[MigProfile, ...]) -> tuple[GpuInstance, ...]:
    """All GPU instances of a GPU, by start."""
    names = {profile.gi_profile_id: profile.name for profile in profiles}
    found = [
        instance_of(device.nvml, handle, names)
        for profile in profiles
        for handle in _handles(device, profile.gi_profile_id, profile.max_instances)
    ]
    return tuple(sorted(found, key=lambda item: item.placement))


def _compute_instances(nvml: ModuleType, instance: object) -> list[object]:
    found: list[object] = []
    for index in range(nvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        try:
            info = nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, index, 0, version=1)
        except nvml.NVMLError_NotSupported:
            continue
        except nvml.NVMLError_InvalidArgument:
            break
        array = (nvml.c_nvmlComputeInstance_t * max(1, info.instanceCount))()
        count = c_uint()
        try:
            nvml.nvmlGpuInstanceGetComputeInstances(instance, info.id, array, byref(count))
        except nvml.NVMLError_NotSupported:  # on a vGPU host, compute instances belong to the guest
            continue
        found.extend(array[: count.value])
    return found


def destroy_instance(
    device: Device, profile_id: int, start: int, processes: tuple[GpuProcess, ...], where: str
) -> bool:
    """Destroy the instance of that profile and start after its compute instances; False if there is none.

    Raises:
        GpuBusyError: processes run in it; nothing was changed.
    """
    nvml = device.nvml
    most = next(
        (
            item.max_instances
            for item in get_profiles(device, with_placements=False)
            if item.gi_profile_id == profile_id
        ),
        8,
    )
    for handle in _handles(device, profile_id, most):
        info = nvml.nvmlGpuInstanceGetInfo(handle)
        if info.placement.start != start:
            continue
        users = [item for item in processes if item.gpu_instance_id == info.id]
        if users:
            listed = ", ".join(f"{item.name} (pid {item.pid})" for item in users)
            raise GpuBusyError(f"the GPU instance is in use by {listed}", where=where, fix="stop them first")
        if info.id in _running_vgpus(device):
            raise GpuBusyError(
                "a guest runs on a vGPU of this GPU instance", where=where, fix="shut its domain down first"
            )
        for compute in _compute_instances(nvml, handle):
            nvml.nvmlComputeInstanceDestroy(compute)
        nvml.nvmlGpuInstanceDestroy(handle)
        return True
    return False


def _running_vgpus(device: Device) -> set[int]:
    """Ids of the GPU instances on which vGPUs run."""
    active = device.optional(device.nvml.nvmlDeviceGetActiveVgpus) or ()
    return {int(device.nvml.nvmlVgpuInstanceGetGpuInstanceId(item)) for item in active}
