"""GPU instances: slices cut at an explicit placement, and who owns them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from emulator.apply.gpu_ownership import slice_key, slice_of, vgpus_on
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.handlers.gpu.discovery import traced_slices
from emulator.apply.handlers.gpu.evidence import made_in_this_boot, settled_handle, surely_absent
from emulator.apply.handlers.gpu.host import GpuHost, Gpus
from emulator.apply.handlers.gpu.shared_settings import passed_through
from emulator.core.errors import GpuError
from emulator.gpu.errors import GpuBusyError, GpuNotSupportedError
from emulator.gpu.model import GpuInstance as Slice
from emulator.gpu.model import Placement
from emulator.plan.gpu_resources import GpuInstance, Vgpu, slice_name
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Resource


class GpuInstanceHandler:
    """Creates slices. A slice is known by (GPU, profile, start); the ledger names its owner before it is created."""

    def __init__(self, gpus: Gpus, lab: str) -> None:
        self._gpus = gpus
        self._lab = lab

    def observe(self, resource: GpuInstance, record: Recorded | None) -> Observation:
        gpus = self._gpus()
        mode = None if passed_through(gpus, resource.pci_address) else gpus.nvml.mig_mode(resource.pci_address)
        if mode is None or not mode.current:
            return Observation(Presence.ABSENT)
        for instance in gpus.nvml.instances(resource.pci_address):
            if not instance.placement.overlaps(resource.placement):
                continue
            if _matches(resource, instance) and self._ours(gpus, resource, settled_handle(record)):
                return Observation(Presence.OURS)
            key = slice_key(resource.pci_address, instance.profile, instance.placement.start)
            if gpus.ledger.holds(self._lab, key):
                continue  # our own; the same plan removes it
            whose = gpus.ledger.in_effect().get(key)
            owner = f"of lab {whose}" if whose else "that hyperscaler did not make"
            text = f"{instance.profile} at slice {instance.placement.start} of {resource.device}, {owner}, is there"
            return Observation(Presence.FOREIGN, detail=text)
        return Observation(Presence.ABSENT)

    def _ours(self, gpus: GpuHost, resource: GpuInstance, handle: Handle) -> bool:
        """Whether the slice there is the lab's: by the ledger, else by the handle of a finished creation, else by the
        lab's vGPU on it. Ledger and handle count only within the boot that they were written in: no slice outlives
        that, so a later one was made by others."""
        key = slice_key(resource.pci_address, resource.profile, resource.start)
        if gpus.ledger.owner(key) is None:
            place = (resource.pci_address, resource.profile, resource.start)
            return made_in_this_boot(gpus, handle) or place in traced_slices(gpus, self._lab)
        return gpus.ledger.holds(self._lab, key)

    def ensure(self, resource: GpuInstance, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        gpus = self._gpus()
        key = slice_key(resource.pci_address, resource.profile, resource.start)
        with gpus.ledger.layout():
            instance = _existing(gpus, resource)
            if instance is None:
                instance = self._create(gpus, resource, key)
            elif self._ours(gpus, resource, context.handle(resource.id)):
                gpus.ledger.claim(key, self._lab)
            else:
                raise GpuBusyError(
                    f"{resource.profile} at slice {resource.start} of {resource.device} is there already and "
                    "is not this lab's",
                    where=resource.pci_address,
                    fix="see `hyperscaler gpu discover`, then plan again",
                )
            return {"gpu_instance_id": instance.gi_id, "boot": gpus.ledger.boot_id()}

    def _create(self, gpus: GpuHost, resource: GpuInstance, key: str) -> Slice:
        gpus.ledger.claim(key, self._lab)
        try:
            profile_id = profile_id_of(gpus, resource)
            return gpus.nvml.create_instance(resource.pci_address, profile_id, resource.placement)
        except GpuError:
            if surely_absent(lambda: _existing(gpus, resource) is not None):
                gpus.ledger.release(key, self._lab)
            raise

    def delete(self, resource: GpuInstance, handle: Handle, context: ApplyContext) -> None:
        gpus = self._gpus()
        with gpus.ledger.layout():
            key = slice_key(resource.pci_address, resource.profile, resource.start)
            if not self._ours(gpus, resource, {} if context.resumed else handle):
                gpus.ledger.release(key, self._lab)  # a reservation from before a reboot
                return
            gpus.ledger.claim(key, self._lab)  # a handle is no proof once the removal has begun
            mode = gpus.nvml.mig_mode(resource.pci_address)
            if mode is not None and mode.current:
                self._destroy(gpus, resource)
            gpus.ledger.release(key, self._lab)

    def _destroy(self, gpus: GpuHost, resource: GpuInstance) -> None:
        try:
            gpus.nvml.destroy_instance(resource.pci_address, profile_id_of(gpus, resource), resource.start)
        except GpuBusyError as error:
            gpu = vgpus_on(resource.pci_address)
            others = {owner for name, owner in gpus.ledger.in_effect().items() if name.startswith(gpu)} - {self._lab}
            if not others:
                raise
            # The driver chose the slice of each vGPU and does not report it before a guest runs.
            raise GpuBusyError(
                f"{error.what}; a vGPU of lab {' or '.join(sorted(others))} may be on it",
                where=error.where,
                fix=f"stop what uses it, or destroy that lab first; {error.fix}",
            ) from error

    def find(self, lab: str) -> Sequence[Resource]:
        """Slices that the host's ledger gives to the lab, and slices under vGPUs of the lab."""
        gpus = self._gpus()
        return tuple(
            gpu_instance(pci_address, pci_address, profile, Placement(start, 1))
            for pci_address, profile, start in (*slices_of(gpus, {lab}), *sorted(traced_slices(gpus, lab)))
        )


def slices_of(gpus: GpuHost, labs: Collection[str]) -> tuple[tuple[str, str, int], ...]:
    """GPU, profile and start of each slice that the ledger gives to one of the labs."""
    found = (slice_of(key) for key, owner in gpus.ledger.read().items() if owner in labs)
    return tuple(place for place in found if place is not None)


def _existing(gpus: GpuHost, resource: GpuInstance) -> Slice | None:
    return next((item for item in gpus.nvml.instances(resource.pci_address) if _matches(resource, item)), None)


def _matches(resource: GpuInstance, instance: Slice) -> bool:
    return instance.profile == resource.profile and instance.placement == resource.placement


def profile_id_of(gpus: GpuHost, resource: GpuInstance | Vgpu) -> int:
    """The driver's number of the profile on that GPU."""
    profiles = gpus.nvml.profiles(resource.pci_address)
    for profile in profiles:
        if profile.name == resource.profile:
            return profile.gi_profile_id
    names = ", ".join(profile.name for profile in profiles)
    raise GpuNotSupportedError(
        f"{resource.device} offers no profile {resource.profile}",
        where=resource.pci_address,
        fix=f"use one of {names}" if names else "switch MIG mode on first",
    )


def gpu_instance(
    device: str, pci_address: str, profile: str, placement: Placement, needs: tuple[str, ...] = ()
) -> GpuInstance:
    """The resource of a slice; its name holds GPU, profile and start."""
    return GpuInstance(
        name=slice_name(pci_address, profile, placement.start),
        needs=needs,
        device=device,
        pci_address=pci_address,
        profile=profile,
        start=placement.start,
        size=placement.size,
    )
