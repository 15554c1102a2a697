"""Each vGPU on the slice that was cut for it.

Whoever makes a vGPU names its type and function, and the driver takes the first GPU instance of the profile that no
vGPU has; it stays there until it is removed (NVIDIA's open kernel modules: `kvgpumgrCreateRequestVgpu` asks
`kvgpumgrGetSwizzId` and keeps the answer). A free slice of another lab would be taken as gladly, and neither lab could
give its own back while the other is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from emulator.apply.gpu_ownership import slice_of, vgpu_key
from emulator.apply.handlers.gpu_host import GpuHost
from emulator.apply.handlers.mig import profile_id_of
from emulator.core.errors import GpuError
from emulator.gpu.errors import GpuBusyError
from emulator.gpu.model import Placement
from emulator.gpu.ports import VgpuHost
from emulator.plan.gpu_build import vgpu_uuid
from emulator.plan.gpu_resources import Vgpu, slice_name


@contextmanager
def other_slices_away(gpus: GpuHost, host: VgpuHost, resource: Vgpu, lab: str) -> Iterator[None]:
    """Meanwhile no slice of labs on the GPU is free for a vGPU of the profile but its own.

    Those that another run has just made, or one that died has left, come back to the same place. The caller holds
    `GpuLedger.layout`, so that nobody misses them; if this run dies in between, their labs' next run makes them again,
    since the claims on them stay.

    Raises:
        GpuError: one could not be made again.
    """
    profile_id, gpu = profile_id_of(gpus, resource), resource.pci_address
    away: list[Placement] = []
    try:
        for place in _maybe_free(gpus, host, resource, lab):
            away.append(place)  # first: a driver can do a thing and report that it failed
            with contextlib.suppress(GpuBusyError):  # something has it: then it is not free
                gpus.nvml.destroy_instance(gpu, profile_id, place.start)
        yield
    finally:
        failed: GpuError | None = None
        for place in away:
            try:
                if all(item.placement != place for item in gpus.nvml.instances(gpu)):
                    gpus.nvml.create_instance(gpu, profile_id, place)
            except GpuError as error:
                failed = failed or error
        if failed is not None:
            raise failed


def _maybe_free(gpus: GpuHost, host: VgpuHost, resource: Vgpu, lab: str) -> list[Placement]:
    """Slices of the profile that labs have on the GPU and no vGPU for, but for the vGPU's own. Beside slices that
    hyperscaler did not make those with a vGPU, too: it may be on such a one, and its own slice free."""
    claims = gpus.ledger.in_effect()
    mine = {
        place[2]: owner
        for key, owner in claims.items()
        if (place := slice_of(key)) is not None and place[:2] == (resource.pci_address, resource.profile)
    }
    own = {
        start
        for start, owner in mine.items()
        if owner == lab and resource.name == slice_name(resource.pci_address, resource.profile, start)
    }
    there = [
        item
        for item in (gpus.nvml.instances(resource.pci_address) if mine.keys() - own else ())
        if item.profile == resource.profile and not item.busy
    ]
    devices = host.devices()
    uuids, functions = {str(device.uuid) for device in devices}, {device.parent for device in devices}

    def has_vgpu(start: int) -> bool:
        name = gpus.ledger.written(mine[start])
        uuid = str(vgpu_uuid(name, resource.pci_address, resource.profile, start))
        begin = vgpu_key(resource.pci_address, uuid, "")
        return uuid in uuids or any(key.removeprefix(begin) in functions for key in claims if key.startswith(begin))

    strangers = any(item.placement.start not in mine for item in there)
    return [
        item.placement
        for item in there
        if item.placement.start in mine.keys() - own and (strangers or not has_vgpu(item.placement.start))
    ]
