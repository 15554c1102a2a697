"""Each vGPU on the slice that was cut for it.

Whoever makes a vGPU names its type and function, and the driver takes the first GPU instance of the profile that no
vGPU has; it stays there until it is removed (NVIDIA's open kernel modules: `kvgpumgrCreateRequestVgpu` asks
`kvgpumgrGetSwizzId` and keeps the answer). A free slice of another lab would be taken as gladly, and neither lab could
give its own back while the other is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from emulator.apply.handlers.gpu_carve import GpuHost, profile_id_of
from emulator.apply.ledger import slice_of, vgpu_key
from emulator.gpu.model import GpuInstance
from emulator.gpu_errors import GpuBusyError
from emulator.gpu_ports import VgpuHost
from emulator.plan.gpu_build import vgpu_uuid
from emulator.plan.gpu_resources import Vgpu


@contextmanager
def other_slices_away(gpus: GpuHost, host: VgpuHost, resource: Vgpu, lab: str) -> Iterator[None]:
    """Meanwhile no slice of labs on the board is free for a vGPU of the profile but its own.

    Those that another run has just made, or one that died has left, come back to the same place. The caller holds
    `GpuLedger.layout`, so that nobody misses them; if this run dies in between, their labs' next run makes them again,
    since the claims on them stay.

    Raises:
        GpuError: one could not be made again.
    """
    profile_id = profile_id_of(gpus, resource)
    away: list[GpuInstance] = []
    try:
        for instance in _without_vgpu(gpus, host, resource, lab):
            try:
                gpus.nvml.destroy_instance(resource.pci_address, profile_id, instance.placement.start)
            except GpuBusyError:  # no vGPU of ours is known on it, but something has it: then it is not free
                continue
            away.append(instance)
        yield
    finally:
        for instance in away:
            gpus.nvml.create_instance(resource.pci_address, profile_id, instance.placement)


def _without_vgpu(gpus: GpuHost, host: VgpuHost, resource: Vgpu, lab: str) -> list[GpuInstance]:
    """Slices of the profile that labs have on the board and that no vGPU of theirs is there for, but for the vGPU's
    own."""
    claims = gpus.ledger.in_effect()
    devices = host.devices()
    uuids, functions = {str(device.uuid) for device in devices}, {device.parent for device in devices}
    free = set()
    for key, owner in claims.items():
        place = slice_of(key)
        if place is None or place[:2] != (resource.pci_address, resource.profile):
            continue
        own = owner == lab and resource.name == f"{resource.pci_address}-{resource.profile}-at-{place[2]}"
        uuid = str(vgpu_uuid(gpus.ledger.written(owner), *place))
        start = vgpu_key(resource.pci_address, uuid, "")
        on = {name.removeprefix(start) for name in claims if name.startswith(start)}
        if not own and uuid not in uuids and not on & functions:
            free.add(place[2])
    instances = gpus.nvml.instances(resource.pci_address) if free else ()
    return [item for item in instances if item.profile == resource.profile and item.placement.start in free]
