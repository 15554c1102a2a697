"""vGPUs: what a guest sees of a GPU instance."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from emulator.apply.gpu_ownership import vgpu_key, vgpus_on
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.handlers.gpu.discovery import traced_vgpus
from emulator.apply.handlers.gpu.evidence import made_in_this_boot, settled_handle, surely_absent
from emulator.apply.handlers.gpu.gpu_instance import slices_of
from emulator.apply.handlers.gpu.host import Gpus
from emulator.apply.handlers.gpu.vgpu_slice import only_own_slice_free
from emulator.core.errors import GpuError
from emulator.gpu.errors import GpuNoRoomError, GpuNotSupportedError
from emulator.gpu.ports import VgpuDevice, VgpuFramework, VgpuHost, VgpuParent, VgpuRequest
from emulator.host.gpus import why_unavailable
from emulator.plan.gpu_build import vgpu_uuid
from emulator.plan.gpu_resources import Vgpu, slice_name
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Resource


class VgpuHandler:
    """Creates vGPUs. The mdev framework identifies one by its UUID; in the vendor VFIO framework it is the virtual
    function itself, and only the ledger names its owner."""

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
        """The vGPU with our UUID or, where vGPUs have none, on the function that the ledger or the handle names."""
        gpus = self._gpus()
        functions = {self._claimed(resource, gpus.ledger.held(self._lab))}
        if made_in_this_boot(gpus, handle):
            functions.add(handle.get("parent"))
        for device in host.devices():
            if device.uuid is not None and str(device.uuid) == resource.uuid and not self._foreign(device):
                return device
            if device.uuid is None and device.parent in functions and self._fits(resource, device):
                return device
        return None

    def _foreign(self, device: VgpuDevice) -> bool:
        """Whether the ledger gives the mediated device to another lab.

        Its UUID can equal ours: older versions gave labs of the same name in two homes the same UUIDs, and a copied
        home has them, too.
        """
        end = f"/vgpu/{device.uuid}/{device.parent}"
        owners = {owner for key, owner in self._gpus().ledger.in_effect().items() if key.endswith(end)}
        return bool(owners - {self._lab})

    def _claimed(self, resource: Vgpu, keys: Sequence[str]) -> str | None:
        """The function that one of the ledger's `keys` gives to this vGPU."""
        start = vgpu_key(resource.pci_address, resource.uuid, "")
        return next((key.removeprefix(start) for key in keys if key.startswith(start)), None)

    def _fits(self, resource: Vgpu, device: VgpuDevice) -> bool:
        """Whether a vGPU has the wanted profile and is on the wanted GPU."""
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
        # Threads make vGPUs of one GPU at the same time: each must see which functions the others took.
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
            with only_own_slice_free(self._gpus(), host, resource, self._lab):
                return host.create(request)
        except GpuError:
            if surely_absent(lambda: self._existing(host, resource, {}) is not None):
                ledger.release(key, self._lab)
            raise

    def _request(self, resource: Vgpu, host: VgpuHost, before: str | None) -> VgpuRequest:
        """A free function that offers the type; the function `before`, used the last time, comes first.

        Functions that the ledger gives to other vGPUs are left out even if they are free: after a removal by hand the
        owner would take our vGPU for its own in the vendor VFIO framework.

        Raises:
            GpuNoRoomError: there is none; says why.
        """
        names = self._type_names(resource)
        others = self._functions_of_others(resource)
        parents = [item for item in host.parents(resource.pci_address) if item.address not in others]
        for parent in sorted(parents, key=lambda item: item.address != before):
            for name in names:
                if not parent.devices and name in parent.creatable:
                    return VgpuRequest(parent.address, name, UUID(resource.uuid))
        raise GpuNoRoomError(
            f"no vGPU of type {' or '.join(names)} can be made on {resource.device}: "
            f"{self._why_unavailable(resource, names[0], parents)}",
            where=resource.pci_address,
            fix="see `hyperscaler gpu discover`, free the GPU, then run the command again",
        )

    def _why_unavailable(self, resource: Vgpu, type_name: str, parents: Sequence[VgpuParent]) -> str:
        gpu = next((gpu for gpu in self._gpus().nvml.gpus() if gpu.pci_address == resource.pci_address), None)
        if not parents or gpu is None:
            return "it has no virtual functions; enable them with sriov-manage"
        free = next((parent.address for parent in parents if not parent.devices), parents[0].address)
        return why_unavailable(type_name, gpu, parents, free).value

    def _functions_of_others(self, resource: Vgpu) -> set[str]:
        own = vgpu_key(resource.pci_address, resource.uuid, "")
        gpu = vgpus_on(resource.pci_address)
        claims = self._gpus().ledger.in_effect()
        return {key.rpartition("/")[2] for key in claims if key.startswith(gpu) and not key.startswith(own)}

    def _type_names(self, resource: Vgpu) -> tuple[str, ...]:
        """vGPU types that take a whole slice of the profile, by NVML's link of type and profile: names vary by GPU."""
        nvml = self._gpus().nvml
        profiles = {profile.name: profile.gi_profile_id for profile in nvml.profiles(resource.pci_address)}
        wanted = profiles.get(resource.profile)
        kinds = [kind for kind in nvml.vgpu_types(resource.pci_address) if kind.gi_profile_id == wanted]
        if wanted is None or not kinds:
            raise GpuNotSupportedError(
                f"{resource.device} has no vGPU type for profile {resource.profile}",
                where=resource.pci_address,
                fix="see `hyperscaler gpu discover`; MIG-backed vGPUs need NVIDIA's vGPU host driver",
            )
        # GPUs that time-slice GPU instances also have types for a part of one, which several guests would share.
        least = min(kind.max_instances for kind in kinds)
        whole = (kind.name for kind in kinds if kind.max_instances == least)
        # The plain compute type first; media and graphics variants only if there is no other.
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
        """vGPUs that the host's ledger gives to the lab, and vGPUs with the lab's UUIDs that are in no ledger. The UUID
        also identifies the slice."""
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
