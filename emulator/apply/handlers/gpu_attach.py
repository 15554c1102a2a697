"""Handing boards to guests: vGPUs on GPU instances, and whole boards."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.handlers.gpu_carve import Gpus
from emulator.gpu_errors import GpuBusyError, GpuNoRoomError, GpuNotSupportedError
from emulator.gpu_ports import VgpuDevice, VgpuFramework, VgpuHost, VgpuRequest
from emulator.host.gpus import why_unavailable
from emulator.plan.gpu_resources import Vgpu, WholeGpu
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Resource
from emulator.ports import Hostdev, HostdevKind

VFIO_DRIVER = "vfio-pci"


class VgpuHandler:
    """In the mdev framework a vGPU is known by its UUID; in the vendor VFIO framework it is its VF."""

    def __init__(self, gpus: Gpus, lab: str) -> None:
        self._gpus = gpus
        self._lab = lab

    def observe(self, resource: Vgpu, record: Recorded | None) -> Observation:
        gpus = self._gpus()
        framework = gpus.pci.framework(resource.pci_address)
        if framework is VgpuFramework.NONE:
            return Observation(Presence.ABSENT)
        device = self._existing(gpus.vgpus(framework), resource, record.handle if record else {})
        if device is None:
            return Observation(Presence.ABSENT)
        return Observation(Presence.OURS)

    def _existing(self, host: VgpuHost, resource: Vgpu, handle: Handle) -> VgpuDevice | None:
        for device in host.devices():
            if device.uuid is not None and str(device.uuid) == resource.uuid:
                return device
            recorded = handle.get("parent") == device.parent and handle.get("type_name") == device.type_name
            if device.uuid is None and recorded:
                return device
        return None

    def ensure(self, resource: Vgpu, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        gpus = self._gpus()
        framework = gpus.pci.framework(resource.pci_address)
        if framework is VgpuFramework.NONE:
            raise GpuNotSupportedError(
                f"the kernel offers no vGPU framework for {resource.device}",
                where=resource.pci_address,
                fix="install NVIDIA's vGPU host driver (Virtual GPU Manager); the data-centre driver has no vGPUs",
            )
        host = gpus.vgpus(framework)
        device = self._existing(host, resource, context.handle(resource.id))
        if device is None:
            device = host.create(self._request(resource, host))
        return {
            "framework": device.framework.value,
            "parent": device.parent,
            "type_id": device.type_id,
            "type_name": device.type_name,
            "uuid": str(device.uuid) if device.uuid else "",
        }

    def _request(self, resource: Vgpu, host: VgpuHost) -> VgpuRequest:
        names = self._type_names(resource)
        parents = host.parents(resource.pci_address)
        for parent in parents:
            for name in names:
                if not parent.devices and name in parent.creatable:
                    return VgpuRequest(parent.address, name, UUID(resource.uuid))
        board = next((b for b in self._gpus().nvml.boards() if b.pci_address == resource.pci_address), None)
        if not parents or board is None:
            why = "no virtual function is there; enable them with sriov-manage"
        else:
            free = next((parent.address for parent in parents if not parent.devices), parents[0].address)
            why = why_unavailable(names[0], board, parents, free).value
        raise GpuNoRoomError(
            f"no vGPU of type {' or '.join(names)} can be made on {resource.device}: {why}",
            where=resource.pci_address,
            fix="compare `hyperscaler gpu discover`, free what is in the way, then run the command again",
        )

    def _type_names(self, resource: Vgpu) -> tuple[str, ...]:
        """vGPU types of the profile: NVML links type and profile, since names differ from board to board."""
        nvml = self._gpus().nvml
        profiles = {profile.name: profile.gi_profile_id for profile in nvml.profiles(resource.pci_address)}
        wanted = profiles.get(resource.profile)
        names = tuple(kind.name for kind in nvml.vgpu_types(resource.pci_address) if kind.gi_profile_id == wanted)
        if wanted is None or not names:
            raise GpuNotSupportedError(
                f"{resource.device} has no vGPU type for profile {resource.profile}",
                where=resource.pci_address,
                fix="compare `hyperscaler gpu discover`; MIG-backed vGPUs need NVIDIA's vGPU host driver",
            )
        # The plain compute type first; media and graphics variants only where there is no other.
        return tuple(sorted(names, key=lambda name: (len(name), name)))

    def delete(self, resource: Vgpu, handle: Handle, context: ApplyContext) -> None:
        del context
        gpus = self._gpus()
        framework = gpus.pci.framework(resource.pci_address)
        if framework is VgpuFramework.NONE:
            return
        host = gpus.vgpus(framework)
        device = self._existing(host, resource, handle)
        if device is not None:
            host.remove(device)

    def find(self, lab: str) -> Sequence[Resource]:
        """vGPUs are found by their UUIDs, which follow from the lab's name and the node's; see the plan."""
        del lab
        return ()


class WholeGpuHandler:
    def __init__(self, gpus: Gpus, lab: str) -> None:
        self._gpus = gpus
        self._lab = lab

    def observe(self, resource: WholeGpu, record: Recorded | None) -> Observation:
        gpus = self._gpus()
        owner = gpus.ledger.owner(resource.pci_address)
        if owner not in (None, self._lab):
            return Observation(Presence.FOREIGN, detail=f"{resource.device} belongs to lab {owner}")
        device = gpus.pci.device(resource.pci_address)
        if device is None:
            return Observation(Presence.FOREIGN, detail=f"there is no board at {resource.pci_address}")
        bound = device.driver == VFIO_DRIVER
        if bound and record is None and owner is None and device.iommu_group is not None:
            holders = gpus.pci.holders(f"/dev/vfio/{device.iommu_group}")
            if holders:
                text = f"{resource.device} is used by {holders[0].name} (pid {holders[0].pid})"
                return Observation(Presence.FOREIGN, detail=text)
        return Observation(Presence.OURS if bound else Presence.ABSENT)

    def ensure(self, resource: WholeGpu, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        gpus = self._gpus()
        device = gpus.pci.device(resource.pci_address)
        driver = device.driver if device and device.driver else ""
        gpus.ledger.claim(resource.pci_address, self._lab)
        before = context.handle(resource.id).get("driver_before", driver)
        endpoints = gpus.passthrough.bind(resource.pci_address)
        return {"driver_before": before, "endpoints": list(endpoints)}

    def delete(self, resource: WholeGpu, handle: Handle, context: ApplyContext) -> None:
        del context
        gpus = self._gpus()
        device = gpus.pci.device(resource.pci_address)
        before = handle.get("driver_before", "nvidia")
        if device is not None and device.driver == VFIO_DRIVER and before != VFIO_DRIVER:
            if device.iommu_group is not None and (held := gpus.pci.holders(f"/dev/vfio/{device.iommu_group}")):
                raise GpuBusyError(
                    f"{resource.device} is still used by {held[0].name} (pid {held[0].pid})",
                    where=resource.pci_address,
                    fix="shut that virtual machine down first",
                )
            gpus.passthrough.release(resource.pci_address, driver=before or "nvidia")
        gpus.ledger.release(resource.pci_address, self._lab)

    def find(self, lab: str) -> Sequence[Resource]:
        keys = self._gpus().ledger.of(lab)
        boards = [key for key in keys if "/" not in key]
        return tuple(WholeGpu(name=key, device=key, pci_address=key, node="", demand="") for key in boards)


def hostdevs_of(gpus: Gpus, handle: Handle) -> tuple[Hostdev, ...]:
    """The devices for the domain XML that a vGPU's or a whole board's handle stands for.

    A simulated board has none: the guest sees its slices as inventory data.
    """
    if not gpus().real:
        return ()
    if "endpoints" in handle:
        return tuple(Hostdev(HostdevKind.PCI, address) for address in handle["endpoints"])
    if handle.get("framework") == VgpuFramework.MDEV.value:
        return (Hostdev(HostdevKind.MDEV, handle["uuid"]),)
    if handle.get("framework") == VgpuFramework.VENDOR_VFIO.value:
        return (Hostdev(HostdevKind.VFIO_VF, handle["parent"]),)
    return ()
