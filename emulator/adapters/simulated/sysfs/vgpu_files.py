"""The files of both vGPU frameworks on a function that carries vGPUs. Their content follows the state."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from functools import partial
from uuid import UUID

from emulator.adapters.simulated.nvml import engine_vgpu as vgpu
from emulator.adapters.simulated.nvml.store import GpuStore, SimGpu, SimState, SimVgpu
from emulator.adapters.simulated.sysfs.acting_files import Directory, File, Link, Node, refuse

Entries = Mapping[str, Callable[[], Node]]


def _gpu(state: SimState, minor: int) -> SimGpu:
    for gpu in state.gpus:
        if gpu.minor == minor:
            return gpu
    raise refuse(errno.ENODEV, "")


# ---------------------------------------------------------------- mdev
def mdev_bus_entry(store: GpuStore, gpu: SimGpu, address: str) -> Entries:
    """`mdev_supported_types` of a parent, and the mediated devices below it."""
    entries: dict[str, Callable[[], Node]] = {
        "mdev_supported_types": partial(_types, store, gpu, address),
    }
    for item in gpu.vgpus:
        if item.parent == address and item.uuid:
            entries[item.uuid] = partial(mdev_device, store, gpu, item)
    return entries


def _types(store: GpuStore, gpu: SimGpu, address: str) -> Directory:
    return Directory({f"nvidia-{item.id}": partial(_type, store, gpu, address, item) for item in vgpu.types(gpu)})


def _type(store: GpuStore, gpu: SimGpu, address: str, item: vgpu.TypeFacts) -> Directory:
    def available() -> Node:
        if all(other.id != item.id for other in vgpu.creatable(gpu, address)):
            return File("0\n")
        # A virtual function carries one mdev; a GPU without SR-IOV counts down from the type's maximum.
        many = item.max_instances - len(gpu.vgpus) if address == gpu.pci_address else 1
        return File(f"{many}\n")

    description = f"num_heads=4, frl_config=60, framebuffer=0M, max_instance={item.max_instances}\n"
    return Directory(
        {
            "name": partial(File, f"{item.type.name}\n"),
            "description": partial(File, description),
            "device_api": partial(File, "vfio-pci\n"),
            "available_instances": available,
            "create": partial(File, None, partial(_create, store, gpu.minor, address, item.id)),
            "devices": Directory,
        }
    )


def _create(store: GpuStore, minor: int, address: str, type_id: int, text: str) -> None:
    if not text:
        return  # the kernel never sees such a write
    try:
        # Everything after the 36th character is ignored, as in the kernel.
        uuid = str(UUID(text.strip()[:36]))
    except ValueError:
        raise refuse(errno.EINVAL, text) from None
    with store.change() as state:
        vgpu.create(state, _gpu(state, minor), address, type_id, uuid)


def mdev_device(store: GpuStore, gpu: SimGpu, item: SimVgpu) -> Directory:
    """`/sys/bus/mdev/devices/<uuid>`."""
    group = 1000 + gpu.minor * 64 + (vgpu.parents(gpu).index(item.parent))
    types = f"/sys/devices/{item.parent}/mdev_supported_types/nvidia-{item.type_id}"
    return Directory(
        {
            "mdev_type": partial(Link, f"../mdev_supported_types/nvidia-{item.type_id}", types),
            "remove": partial(File, None, partial(_remove, store, gpu.minor, item.uuid)),
            "iommu_group": partial(Link, f"../../kernel/iommu_groups/{group}", f"/sys/kernel/iommu_groups/{group}"),
            "nvidia": partial(Directory, {"vgpu_params": partial(File, "\n")}),
        }
    )


def _remove(store: GpuStore, minor: int, uuid: str, text: str) -> None:
    if not text.strip().isdigit():
        raise refuse(errno.EINVAL, text)
    if int(text) == 0:
        return
    with store.change() as state:
        gpu = _gpu(state, minor)
        for item in gpu.vgpus:
            if item.uuid == uuid:
                vgpu.remove(gpu, item)
                return
        raise refuse(errno.ENODEV, uuid)


# ---------------------------------------------------------------- vendor VFIO
def vendor_directory(store: GpuStore, gpu: SimGpu, address: str) -> Directory:
    """`<VF>/nvidia`."""
    on = vgpu.vgpu_on(gpu, address)
    lines = ["ID    : vGPU Name"]
    lines += [f"{item.id:<6}: {item.type.name}" for item in vgpu.creatable(gpu, address)]
    current = f"{on.type_id if on else 0}\n"
    return Directory(
        {
            "creatable_vgpu_types": partial(File, "\n".join(lines) + "\n"),
            "current_vgpu_type": partial(File, current, partial(_set_type, store, gpu.minor, address)),
            "vgpu_params": partial(File, "\n"),
        }
    )


def _set_type(store: GpuStore, minor: int, address: str, text: str) -> None:
    if not text.strip().isdigit():
        raise refuse(errno.EINVAL, text)
    number = int(text)
    with store.change() as state:
        gpu = _gpu(state, minor)
        on = vgpu.vgpu_on(gpu, address)
        if number == 0:
            if on is None or on.held:
                raise refuse(errno.EPERM, address)
            gpu.vgpus.remove(on)
            return
        vgpu.create(state, gpu, address, number)
