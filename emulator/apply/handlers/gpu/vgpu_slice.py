"""Each vGPU on the slice that was cut for it.

A vGPU is created with a type and a function only: the driver puts it on the first GPU instance of the profile that has
no vGPU, and it stays there until it is removed (NVIDIA's open kernel modules: `kvgpumgrCreateRequestVgpu` asks
`kvgpumgrGetSwizzId` and keeps the answer). That could be a free slice of another lab, and then neither lab could remove
its own slice while the other one's vGPU exists.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from emulator.apply.gpu_ownership import slice_of, vgpu_key
from emulator.apply.handlers.gpu.gpu_instance import profile_id_of
from emulator.apply.handlers.gpu.host import GpuHost
from emulator.core.errors import GpuError
from emulator.gpu.errors import GpuBusyError
from emulator.gpu.model import GpuInstance, Placement
from emulator.gpu.ports import VgpuHost
from emulator.plan.gpu_build import vgpu_uuid
from emulator.plan.gpu_resources import Vgpu, slice_name


@contextmanager
def only_own_slice_free(gpus: GpuHost, host: VgpuHost, resource: Vgpu, lab: str) -> Iterator[None]:
    """While the block runs, the vGPU's own slice is the only free one of its profile that any lab has on the GPU.

    The other labs' free slices are removed before the block and made again at the same place after it. The caller holds
    `GpuLedger.layout`, so that no other run notices. The claims on them stay: if this run dies in between, the next run
    of their labs makes them again.

    Raises:
        GpuError: a slice could not be made again.
    """
    profile_id, gpu = profile_id_of(gpus, resource), resource.pci_address
    removed: list[Placement] = []
    try:
        for place in _competing(gpus, host, resource, lab):
            removed.append(place)  # first, since a driver can report a failure after removing the slice
            with contextlib.suppress(GpuBusyError):  # in use, so it is not free
                gpus.nvml.destroy_instance(gpu, profile_id, place.start)
        yield
    finally:
        _make_again(gpus, gpu, profile_id, removed)


def _make_again(gpus: GpuHost, gpu: str, profile_id: int, places: list[Placement]) -> None:
    failed: GpuError | None = None
    for place in places:
        try:
            if all(item.placement != place for item in gpus.nvml.instances(gpu)):
                gpus.nvml.create_instance(gpu, profile_id, place)
        except GpuError as error:
            failed = failed or error
    if failed is not None:
        raise failed


def _competing(gpus: GpuHost, host: VgpuHost, resource: Vgpu, lab: str) -> list[Placement]:
    """Slices of the profile that labs own on the GPU and that the driver might choose: all but the vGPU's own slice and
    those with a vGPU.

    With a foreign slice present, slices with a vGPU count as well: the driver may have put that vGPU on the foreign
    slice and left the lab's own one free.
    """
    owners = _slice_owners(gpus, resource)
    own = {
        start
        for start, owner in owners.items()
        if owner == lab and resource.name == slice_name(resource.pci_address, resource.profile, start)
    }
    if not owners.keys() - own:
        return []
    idle = [item for item in gpus.nvml.instances(resource.pci_address) if _is_idle(item, resource.profile)]
    foreign_there = any(item.placement.start not in owners for item in idle)
    used = set() if foreign_there else _with_vgpu(gpus, host, resource, owners)
    return [item.placement for item in idle if item.placement.start in owners.keys() - own - used]


def _is_idle(item: GpuInstance, profile: str) -> bool:
    return item.profile == profile and not item.busy


def _slice_owners(gpus: GpuHost, resource: Vgpu) -> Mapping[int, str]:
    """Owner by start of the labs' slices of the vGPU's profile on its GPU."""
    return {
        place[2]: owner
        for key, owner in gpus.ledger.in_effect().items()
        if (place := slice_of(key)) is not None and place[:2] == (resource.pci_address, resource.profile)
    }


def _with_vgpu(gpus: GpuHost, host: VgpuHost, resource: Vgpu, owners: Mapping[int, str]) -> set[int]:
    """Starts of the slices for which a vGPU exists, by its UUID or by the function that the ledger names."""
    claims, devices = gpus.ledger.in_effect(), host.devices()
    uuids, functions = {str(device.uuid) for device in devices}, {device.parent for device in devices}

    def has_vgpu(start: int) -> bool:
        name = gpus.ledger.written(owners[start])
        uuid = str(vgpu_uuid(name, resource.pci_address, resource.profile, start))
        begin = vgpu_key(resource.pci_address, uuid, "")
        return uuid in uuids or any(key.removeprefix(begin) in functions for key in claims if key.startswith(begin))

    return {start for start in owners if has_vgpu(start)}
