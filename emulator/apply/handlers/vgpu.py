"""Handing GPUs to guests: vGPUs on GPU instances, and whole GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from uuid import UUID

from emulator.apply.gpu_ownership import vgpu_key, vgpus_on, whole_gpus
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.handlers.gpu_discovery import VFIO_DRIVER, traced_gpus, traced_vgpus
from emulator.apply.handlers.gpu_host import GpuHost, Gpus
from emulator.apply.handlers.mig import made_in_this_boot, settled_handle, slices_of, surely_not
from emulator.apply.handlers.vgpu_slice import other_slices_away
from emulator.core.errors import GpuError
from emulator.core.ports import Hostdev, HostdevKind
from emulator.gpu.errors import GpuBusyError, GpuNoRoomError, GpuNotSupportedError
from emulator.gpu.ports import VgpuDevice, VgpuFramework, VgpuHost, VgpuRequest
from emulator.host.gpus import why_unavailable
from emulator.plan.gpu_build import vgpu_uuid
from emulator.plan.gpu_resources import Vgpu, WholeGpu, slice_name
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Resource


class VgpuHandler:
    """In the mdev framework a vGPU is known by its UUID; in the vendor VFIO framework it is its virtual function,
    of which the ledger says whose it is."""

    def __init__(self, gpus: Gpus, lab: str) -> None:
        self._gpus = gpus
        self._lab = lab

    def observe(self, resource: Vgpu, record: Recorded | None) -> Observation:
        gpus = self._gpus()
        framework = gpus.pci.framework(resource.pci_address)
        mode = gpus.nvml.mig_mode(resource.pci_address) if framework is not VgpuFramework.NONE else None
        if mode is None or not mode.current:
            return Observation(Presence.ABSENT)
        device = self._existing(gpus.vgpus(framework), resource, settled_handle(record))
        if device is None:
            return Observation(Presence.ABSENT)
        if not self._fits(resource, device):
            text = f"its UUID {resource.uuid} is taken by a vGPU of type {device.type_name} on {device.parent}"
            return Observation(Presence.FOREIGN, detail=text)
        return Observation(Presence.OURS)

    def _existing(self, host: VgpuHost, resource: Vgpu, handle: Handle) -> VgpuDevice | None:
        """The device with our UUID or, where devices have none, on the function that the ledger or handle names."""
        gpus = self._gpus()
        functions = {self._claimed(resource, gpus.ledger.held(self._lab))}
        if made_in_this_boot(gpus, handle):
            functions.add(handle.get("parent"))
        for device in host.devices():
            if device.uuid is not None and str(device.uuid) == resource.uuid and not self._of_others(device):
                return device
            if device.uuid is None and device.parent in functions and self._fits(resource, device):
                return device
        return None

    def _of_others(self, device: VgpuDevice) -> bool:
        """Whether the ledger gives a mediated device to another lab. Older versions gave labs of the same name in two
        homes the same UUIDs, and so does a home that was copied."""
        end = f"/vgpu/{device.uuid}/{device.parent}"
        owners = {owner for key, owner in self._gpus().ledger.in_effect().items() if key.endswith(end)}
        return bool(owners - {self._lab})

    def _claimed(self, resource: Vgpu, keys: Sequence[str]) -> str | None:
        """The function that one of the `keys` of the ledger gives to this vGPU."""
        start = vgpu_key(resource.pci_address, resource.uuid, "")
        return next((key.removeprefix(start) for key in keys if key.startswith(start)), None)

    def _fits(self, resource: Vgpu, device: VgpuDevice) -> bool:
        """Whether a vGPU is of the profile and on the GPU that are wanted."""
        found = self._gpus().pci.device(device.parent)
        gpu = found.physfn or found.address if found is not None else device.parent
        return gpu == resource.pci_address and device.type_name in self._type_names(resource)

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
        # Vgpus of one GPU are made side by side: each must see which functions the others took.
        with gpus.ledger.layout():
            device = self._existing(host, resource, context.handle(resource.id))
            if device is None or not self._fits(resource, device):
                device = self._create(resource, host, context.handle(resource.id).get("parent"))
        return {
            "framework": device.framework.value,
            "parent": device.parent,
            "type_id": device.type_id,
            "type_name": device.type_name,
            "uuid": str(device.uuid) if device.uuid else "",
            "boot": gpus.ledger.boot_id(),
        }

    def _create(self, resource: Vgpu, host: VgpuHost, before: str | None) -> VgpuDevice:
        ledger = self._gpus().ledger
        request = self._request(resource, host, before)
        stale = self._claimed(resource, ledger.of(self._lab))
        if stale not in (None, request.parent):
            ledger.release(vgpu_key(resource.pci_address, resource.uuid, str(stale)), self._lab)
        key = vgpu_key(resource.pci_address, resource.uuid, request.parent)
        ledger.claim(key, self._lab)
        try:
            with other_slices_away(self._gpus(), host, resource, self._lab):
                return host.create(request)
        except GpuError:
            if surely_not(lambda: self._existing(host, resource, {}) is not None):
                ledger.release(key, self._lab)
            raise

    def _request(self, resource: Vgpu, host: VgpuHost, before: str | None) -> VgpuRequest:
        """A free function that offers the type; `before`, where it was made the last time, comes first.

        Not one that the ledger gives to another vGPU: who removed that by hand did not ask whose it was, and in the
        vendor VFIO framework its owner would take ours for it.
        """
        names = self._type_names(resource)
        others = self._functions_of_others(resource)
        parents = [item for item in host.parents(resource.pci_address) if item.address not in others]
        for parent in sorted(parents, key=lambda item: item.address != before):
            for name in names:
                if not parent.devices and name in parent.creatable:
                    return VgpuRequest(parent.address, name, UUID(resource.uuid))
        gpu = next((b for b in self._gpus().nvml.gpus() if b.pci_address == resource.pci_address), None)
        if not parents or gpu is None:
            why = "no virtual function is there; enable them with sriov-manage"
        else:
            free = next((parent.address for parent in parents if not parent.devices), parents[0].address)
            why = why_unavailable(names[0], gpu, parents, free).value
        raise GpuNoRoomError(
            f"no vGPU of type {' or '.join(names)} can be made on {resource.device}: {why}",
            where=resource.pci_address,
            fix="compare `hyperscaler gpu discover`, free what is in the way, then run the command again",
        )

    def _functions_of_others(self, resource: Vgpu) -> set[str]:
        own = vgpu_key(resource.pci_address, resource.uuid, "")
        gpu = vgpus_on(resource.pci_address)
        claims = self._gpus().ledger.in_effect()
        return {key.rpartition("/")[2] for key in claims if key.startswith(gpu) and not key.startswith(own)}

    def _type_names(self, resource: Vgpu) -> tuple[str, ...]:
        """vGPU types of a whole slice of the profile: NVML links type and profile, names differ from GPU to GPU."""
        nvml = self._gpus().nvml
        profiles = {profile.name: profile.gi_profile_id for profile in nvml.profiles(resource.pci_address)}
        wanted = profiles.get(resource.profile)
        kinds = [kind for kind in nvml.vgpu_types(resource.pci_address) if kind.gi_profile_id == wanted]
        if wanted is None or not kinds:
            raise GpuNotSupportedError(
                f"{resource.device} has no vGPU type for profile {resource.profile}",
                where=resource.pci_address,
                fix="compare `hyperscaler gpu discover`; MIG-backed vGPUs need NVIDIA's vGPU host driver",
            )
        # GPUs that time-slice GPU instances have types of a part of one, too, which several guests would share.
        least = min(kind.max_instances for kind in kinds)
        whole = (kind.name for kind in kinds if kind.max_instances == least)
        # The plain compute type first; media and graphics variants only where there is no other.
        return tuple(sorted(whole, key=lambda name: (len(name), name)))

    def delete(self, resource: Vgpu, handle: Handle, context: ApplyContext) -> None:
        gpus = self._gpus()
        with gpus.ledger.layout():
            framework = gpus.pci.framework(resource.pci_address)
            if framework is not VgpuFramework.NONE:
                host = gpus.vgpus(framework)
                device = self._existing(host, resource, {} if context.resumed else handle)
                if device is not None and self._fits(resource, device):
                    gpus.ledger.claim(vgpu_key(resource.pci_address, resource.uuid, device.parent), self._lab)
                    host.remove(device)
            start = vgpu_key(resource.pci_address, resource.uuid, "")
            for key in gpus.ledger.of(self._lab):
                if key.startswith(start):
                    gpus.ledger.release(key, self._lab)

    def find(self, lab: str) -> Sequence[Resource]:
        """vGPUs that the host's ledger gives to the lab, and those that bear the lab's UUIDs and are in no ledger; the
        UUIDs tell their slices, too."""
        gpus = self._gpus()
        slices = {
            str(vgpu_uuid(name, pci_address, profile, start)): (profile, start)
            for name in (lab, gpus.ledger.full_name(lab))  # older versions left the home out
            for pci_address, profile, start in slices_of(gpus, {lab})
        }
        claimed = {
            uuid: (pci_address, *slices[uuid])
            for key in gpus.ledger.of(lab)
            for pci_address, _, rest in (key.partition("/vgpu/"),)
            if (uuid := rest.partition("/")[0]) in slices
        }
        traced = {item.uuid: (item.pci_address, item.profile, item.start) for item in traced_vgpus(gpus, lab)}
        return tuple(
            Vgpu(
                name=slice_name(pci_address, profile, start),
                device=pci_address,
                pci_address=pci_address,
                profile=profile,
                uuid=uuid,
                node="",
                demand="",
            )
            for uuid, (pci_address, profile, start) in (traced | claimed).items()
        )


class WholeGpuHandler:
    """`passed` tells what guests of the lab have of the host's devices."""

    def __init__(self, gpus: Gpus, lab: str, passed: Callable[[], Sequence[Hostdev]] = tuple) -> None:
        self._gpus = gpus
        self._lab = lab
        self._passed = passed

    def observe(self, resource: WholeGpu, record: Recorded | None) -> Observation:
        gpus = self._gpus()
        owner = gpus.ledger.owner(resource.pci_address)
        if owner not in (None, self._lab):
            return Observation(Presence.FOREIGN, detail=f"{resource.device} belongs to lab {owner}")
        device = gpus.pci.device(resource.pci_address)
        if device is None:
            return Observation(Presence.FOREIGN, detail=f"there is no GPU at {resource.pci_address}")
        bound = device.driver == VFIO_DRIVER
        unknown = bound and record is None and owner is None
        if unknown and device.iommu_group is not None and not self._traced(gpus, resource):
            holders = gpus.pci.holders(f"/dev/vfio/{device.iommu_group}")
            if holders:
                text = f"{resource.device} is used by {holders[0].name} (pid {holders[0].pid})"
                return Observation(Presence.FOREIGN, detail=text)
        return Observation(Presence.OURS if bound else Presence.ABSENT)

    def ensure(self, resource: WholeGpu, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        gpus = self._gpus()
        with gpus.ledger.layout():
            device = gpus.pci.device(resource.pci_address)
            driver = device.driver if device and device.driver else ""
            claimed = gpus.ledger.owner(resource.pci_address) == self._lab
            had = claimed or self._traced(gpus, resource)
            gpus.ledger.claim(resource.pci_address, self._lab)
            # A GPU that a run which was cut off has taken from its driver says no longer what that was; nor does one
            # that a guest of the lab has, and no record.
            unknown = had and driver in ("", VFIO_DRIVER)
            before = context.handle(resource.id).get("driver_before", "nvidia" if unknown else driver)
            try:
                if driver == "nvidia":
                    self._refuse_carved(gpus, resource)
                with gpus.nvml.released():
                    endpoints = gpus.passthrough.bind(resource.pci_address, group_gpus=resource.group_gpus)
            except GpuError:
                if not claimed and surely_not(lambda: self._left(resource, driver)):
                    gpus.ledger.release(resource.pci_address, self._lab)
                raise
        return {"driver_before": before, "endpoints": list(endpoints)}

    def _traced(self, gpus: GpuHost, resource: WholeGpu) -> bool:
        return resource.pci_address in traced_gpus(gpus, self._passed())

    def _left(self, resource: WholeGpu, driver: str) -> bool:
        """Whether the GPU is no longer bound to `driver`."""
        device = self._gpus().pci.device(resource.pci_address)
        return device is not None and (device.driver or "") != driver

    def _refuse_carved(self, gpus: GpuHost, resource: WholeGpu) -> None:
        """Binding a GPU to another driver erases its GPU instances; those of this lab are gone by now."""
        instances = gpus.nvml.instances(resource.pci_address)
        if instances:
            listed = ", ".join(f"{item.profile} at {item.placement.start}" for item in instances)
            raise GpuBusyError(
                f"{resource.device} cannot go to a guest as a whole: it is cut into GPU instances of others: {listed}",
                where=resource.pci_address,
                fix="take these away first (nvidia-smi mig -dgi), or use another GPU",
            )

    def delete(self, resource: WholeGpu, handle: Handle, context: ApplyContext) -> None:
        del context
        gpus = self._gpus()
        with gpus.ledger.layout():
            owner = gpus.ledger.owner(resource.pci_address)
            if owner != self._lab and (owner is not None or "driver_before" not in handle):
                return  # the GPU never was this lab's
            device = gpus.pci.device(resource.pci_address)
            before = handle.get("driver_before", "nvidia")
            # Also of a GPU that is not bound: a run that was cut off may have left some of its functions half
            # way to vfio-pci or back, and the release of what is as it was changes nothing.
            if device is not None and before != VFIO_DRIVER:
                bound = device.driver == VFIO_DRIVER and device.iommu_group is not None
                if bound and (held := gpus.pci.holders(f"/dev/vfio/{device.iommu_group}")):
                    raise GpuBusyError(
                        f"{resource.device} is still used by {held[0].name} (pid {held[0].pid})",
                        where=resource.pci_address,
                        fix="shut that virtual machine down first",
                    )
                with gpus.nvml.released():
                    gpus.passthrough.release(resource.pci_address, driver=before)
            gpus.ledger.release(resource.pci_address, self._lab)

    def find(self, lab: str) -> Sequence[Resource]:
        """GPUs that the host's ledger gives to the lab, and those that guests of the lab have and no ledger knows."""
        gpus = self._gpus()
        devices = (*whole_gpus(gpus.ledger.of(lab)), *traced_gpus(gpus, self._passed()))
        return tuple(WholeGpu(name=key, device=key, pci_address=key, node="", demand="") for key in devices)


def hostdevs_of(gpus: Gpus, handle: Handle) -> tuple[Hostdev, ...]:
    """The devices for the domain XML that a vGPU's or a whole GPU's handle stands for.

    A simulated GPU has none: the guest sees its slices as inventory data.
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
