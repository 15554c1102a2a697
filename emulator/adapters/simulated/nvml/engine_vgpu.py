"""Rules of virtual functions and vGPUs, shared by NVML's view and by both sysfs frameworks.

MIG on: a type can be created while a GPU instance of its profile has room for it. MIG off: time-sliced types,
all of one kind on a GPU. One vGPU per virtual function.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import cache

from emulator.adapters.simulated.nvml.engine import gpu_model
from emulator.adapters.simulated.nvml.store import SimGpu, SimInstance, SimState, SimVgpu
from emulator.gpu.model import VgpuType

# Virtual functions if no public source gives their number. Enough for seven slices; documented as an assumption.
DEFAULT_VFS = 16
TIME_SLICED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """A vGPU type on a GPU model. `per_instance`: how many share a GPU instance."""

    type: VgpuType
    id: int
    gi_profile_id: int
    max_instances: int
    per_instance: int


def refuse(number: int, path: str = "") -> OSError:
    """The kernel's error for an errno."""
    return OSError(number, os.strerror(number), path)


def total_vfs(gpu: SimGpu) -> int:
    """Virtual functions that the GPU can have; 0 without SR-IOV."""
    model = gpu_model(gpu.model)
    if not model.sriov or not model.vgpu_capable:
        return 0
    return model.total_vfs or DEFAULT_VFS


def vf_address(gpu: SimGpu, number: int) -> str:
    """Address of a virtual function. They follow the physical function at offset 4, across device numbers (ARI)."""
    return _vf_address(gpu.pci_address, number)


@cache
def _vf_address(pci_address: str, number: int) -> str:
    domain, bus, rest = pci_address.split(":")
    device, _ = rest.split(".")
    at = int(device, 16) * 8 + 4 + number
    return f"{domain}:{bus}:{at // 8:02x}.{at % 8}"


def vfs(gpu: SimGpu) -> list[str]:
    return [vf_address(gpu, number) for number in range(gpu.numvfs)]


def parents(gpu: SimGpu) -> list[str]:
    """The functions that carry vGPUs: VFs, or the GPU itself if vGPUs work without SR-IOV."""
    model = gpu_model(gpu.model)
    if not model.vgpu_capable or gpu.driver != "nvidia" or gpu.lost:
        return []
    return vfs(gpu) if model.sriov else [gpu.pci_address]


def types(gpu: SimGpu) -> tuple[TypeFacts, ...]:
    """Every vGPU type of the GPU model, MIG-backed first."""
    return _types_of(gpu.model)


@cache
def _types_of(name: str) -> tuple[TypeFacts, ...]:
    model = gpu_model(name)
    if not model.vgpu_capable:
        return ()
    found = []
    for profile in model.profiles:
        for item in profile.vgpu_types:
            most = item.max_per_gpu or profile.max_instances
            share = max(1, most // profile.max_instances)
            found.append(TypeFacts(item, item.type_id or 0, profile.gi_profile_id, most, share))
    for item in model.time_sliced_types:
        found.append(TypeFacts(item, item.type_id or 0, TIME_SLICED, item.max_per_gpu or 1, 1))
    return tuple(found)


def type_facts(gpu: SimGpu, type_id: int) -> TypeFacts | None:
    return next((item for item in types(gpu) if item.id == type_id), None)


def vgpu_on(gpu: SimGpu, parent: str) -> SimVgpu | None:
    return next((item for item in gpu.vgpus if item.parent == parent), None)


def free_instance(gpu: SimGpu, wanted: TypeFacts) -> SimInstance | None:
    """A GPU instance of the type's profile with room for one more vGPU of the type."""
    for item in gpu.instances:
        if item.profile_id != wanted.gi_profile_id:
            continue
        inside = [vgpu for vgpu in gpu.vgpus if vgpu.gi_id == item.id]
        # vGPUs on one instance have one framebuffer size (cubecos#905); one type is the strict reading.
        if len(inside) < wanted.per_instance and all(vgpu.type_id == wanted.id for vgpu in inside):
            return item
    return None


def fits(gpu: SimGpu, wanted: TypeFacts) -> bool:
    """Whether one more vGPU of the type fits on the GPU now."""
    if gpu.mig:
        return wanted.gi_profile_id != TIME_SLICED and free_instance(gpu, wanted) is not None
    if wanted.gi_profile_id != TIME_SLICED or len(gpu.vgpus) >= wanted.max_instances:
        return False
    return all(vgpu.type_id == wanted.id for vgpu in gpu.vgpus)


def creatable(gpu: SimGpu, parent: str) -> list[TypeFacts]:
    """Types that can be created on the function now; none if it carries a vGPU (a VF carries one at most)."""
    model = gpu_model(gpu.model)
    if parent not in parents(gpu) or (model.sriov and vgpu_on(gpu, parent)):
        return []
    return [item for item in types(gpu) if fits(gpu, item)]


def create(state: SimState, gpu: SimGpu, parent: str, type_id: int, uuid: str = "") -> None:
    """Create a vGPU; raises the `OSError` of the framework in use."""
    if state.faults.vgpu_errno:
        raise refuse(state.faults.vgpu_errno)
    mdev = bool(uuid)
    wanted = type_facts(gpu, type_id)
    if wanted is None:
        raise refuse(errno.EINVAL)
    if mdev and any(item.uuid == uuid for other in state.gpus for item in other.vgpus):
        raise refuse(errno.EEXIST)
    if gpu_model(gpu.model).sriov and vgpu_on(gpu, parent):
        raise refuse(errno.ENOSPC if mdev else errno.EPERM)
    if not fits(gpu, wanted):
        raise refuse(errno.ENOSPC if mdev else errno.EIO)
    home = free_instance(gpu, wanted) if gpu.mig else None
    gpu.vgpus.append(SimVgpu(parent, type_id, uuid, home.id if home else None))


def remove(gpu: SimGpu, item: SimVgpu) -> None:
    """Remove a vGPU. If a domain holds it, a real kernel would block; the simulation raises EBUSY instead."""
    if item.held:
        raise refuse(errno.EBUSY)
    gpu.vgpus.remove(item)


# ---------------------------------------------------------------- sriov-manage
@dataclass(frozen=True, slots=True)
class ScriptResult:
    """The script's output and exit status."""

    status: int
    text: str


def sriov_manage(state: SimState, address: str, *, enable: bool, opened: bool = False) -> ScriptResult:
    """`sriov-manage -e|-d ADDRESS`: re-bind the driver, which erases all GPU instances of the GPU.

    `opened`: the caller has NVML open, so the driver refuses the unbind lock.
    """
    gpu = next((item for item in state.gpus if item.pci_address == address), None)
    if gpu is None or total_vfs(gpu) == 0:
        return ScriptResult(1, f"{address} is not an SR-IOV capable NVIDIA GPU")
    if state.faults.sriov_flaky > 0:
        state.faults.sriov_flaky -= 1
        return ScriptResult(1, f"Cannot obtain unbindLock for {address}")
    if opened:
        return ScriptResult(1, f"Cannot obtain unbindLock for {address}")
    if state.faults.sriov_silent:
        return ScriptResult(0, "")
    if gpu.vgpus:
        gpu.lost = True  # running it under live vGPUs can detach the GPU (ansible-cozystack#70)
        return ScriptResult(1, f"{address}: unbind failed")
    if gpu.driver != "nvidia" or any(not item.client for item in gpu.processes):
        return ScriptResult(1, f"{address} is in use or not bound to the nvidia driver")
    gpu.instances.clear()
    gpu.numvfs = total_vfs(gpu) if enable else 0
    word = "Enabling" if enable else "Disabling"
    return ScriptResult(0, f"{word} VFs on {address}")
