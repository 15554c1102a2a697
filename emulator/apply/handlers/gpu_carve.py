"""Cutting boards: MIG mode, virtual functions, GPU instances."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.ledger import GpuLedger
from emulator.errors import GpuError
from emulator.gpu.model import Placement
from emulator.gpu_errors import GpuBusyError, GpuNotSupportedError, GpuResetRequiredError
from emulator.gpu_ports import (
    MigActivation,
    NvmlGpus,
    PassthroughControl,
    PciBus,
    SriovControl,
    VgpuFramework,
    VgpuHost,
)
from emulator.plan.gpu_resources import GpuInstance, MigMode, VirtualFunctions
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Resource


@dataclass(frozen=True, slots=True)
class GpuHost:
    """The ports through which boards are read and changed, and the record of who owns what on them.

    `real` False: the boards are simulated, so that nothing of them can be handed to a guest as a device.
    """

    nvml: NvmlGpus
    pci: PciBus
    sriov: SriovControl
    vgpus: Callable[[VgpuFramework], VgpuHost]
    passthrough: PassthroughControl
    ledger: GpuLedger
    real: bool


Gpus = Callable[[], GpuHost]


class MigModeHandler:
    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus

    def observe(self, resource: MigMode, record: Recorded | None) -> Observation:
        del record
        mode = self._gpus().nvml.mig_mode(resource.pci_address)
        if mode is None:
            return Observation(Presence.FOREIGN, detail=f"{resource.device} has no MIG")
        if mode.waits_for_reset:
            return Observation(Presence.OURS, drift=("waits for a reset of the board",))
        return Observation(Presence.OURS if mode.current else Presence.ABSENT)

    def ensure(self, resource: MigMode, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        nvml = self._gpus().nvml
        mode = nvml.mig_mode(resource.pci_address)
        if mode is None:
            raise GpuNotSupportedError(f"{resource.device} has no MIG", where=resource.pci_address)
        before = context.handle(resource.id).get("was_enabled", mode.current)
        if not mode.current:
            _activated(self._gpus(), resource, nvml.set_mig_mode(resource.pci_address, enabled=True))
        return {"was_enabled": before}

    def delete(self, resource: MigMode, handle: Handle, context: ApplyContext) -> None:
        del context
        nvml = self._gpus().nvml
        mode = nvml.mig_mode(resource.pci_address)
        # Without a handle nobody knows how it was; and slices of others need the mode.
        if handle.get("was_enabled", True) or mode is None or not mode.pending:
            return
        if not nvml.instances(resource.pci_address):
            _activated(self._gpus(), resource, nvml.set_mig_mode(resource.pci_address, enabled=False))

    def find(self, lab: str) -> Sequence[Resource]:
        del lab
        return ()


def _activated(gpus: GpuHost, resource: MigMode, outcome: MigActivation) -> None:
    if outcome is MigActivation.ACTIVE:
        return
    holders = [f"{process.name} (pid {process.pid})" for process in gpus.nvml.processes(resource.pci_address)]
    who = f"held by {', '.join(holders)}" if holders else "the driver does not say what holds it"
    if outcome is MigActivation.IN_USE:
        raise GpuBusyError(
            f"MIG mode of {resource.device} cannot change while the board is in use: {who}",
            where=resource.pci_address,
            fix="stop these (often nvidia-persistenced, DCGM or a display server), then run the command again",
        )
    raise GpuResetRequiredError(
        f"MIG mode of {resource.device} is accepted, but waits for a reset of the board: {who}",
        where=resource.pci_address,
        fix=f"nvidia-smi --gpu-reset -i {resource.pci_address} when nothing uses it, or reboot; then run this again",
    )


class VirtualFunctionsHandler:
    def __init__(self, gpus: Gpus, lab: str) -> None:
        self._gpus = gpus
        self._lab = lab

    def observe(self, resource: VirtualFunctions, record: Recorded | None) -> Observation:
        del record
        device = self._gpus().pci.device(resource.pci_address)
        there = device is not None and bool(device.virtfns)
        return Observation(Presence.OURS if there else Presence.ABSENT)

    def ensure(self, resource: VirtualFunctions, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        gpus = self._gpus()
        device = gpus.pci.device(resource.pci_address)
        enabled = device is not None and bool(device.virtfns)
        before = context.handle(resource.id).get("were_enabled", enabled)
        if not enabled:
            _refuse_to_erase(gpus, resource, self._lab, "enabling")
            context.report("sriov-manage re-binds the driver")
            gpus.sriov.enable(resource.pci_address)
        return {"were_enabled": before}

    def delete(self, resource: VirtualFunctions, handle: Handle, context: ApplyContext) -> None:
        del context
        gpus = self._gpus()
        if handle.get("were_enabled", True) or gpus.nvml.instances(resource.pci_address):
            return
        framework = gpus.pci.framework(resource.pci_address)
        if framework is not VgpuFramework.NONE:
            parents = gpus.vgpus(framework).parents(resource.pci_address)
            if any(parent.devices for parent in parents):
                return  # somebody else's vGPUs are on the board
        gpus.sriov.disable(resource.pci_address)

    def find(self, lab: str) -> Sequence[Resource]:
        del lab
        return ()


def _refuse_to_erase(gpus: GpuHost, resource: VirtualFunctions, lab: str, doing: str) -> None:
    """sriov-manage re-binds the driver, which erases every GPU instance of the board, ours or not."""
    mine = set(gpus.ledger.of(lab))
    foreign = [
        f"{instance.profile} at {instance.placement.start}"
        for instance in gpus.nvml.instances(resource.pci_address)
        if slice_key(resource.pci_address, instance.profile, instance.placement.start) not in mine
    ]
    if foreign:
        raise GpuBusyError(
            f"{doing} virtual functions of {resource.device} would erase GPU instances that are not this lab's: "
            + ", ".join(foreign),
            where=resource.pci_address,
            fix="take these away first (nvidia-smi mig -dgi), or use another board",
        )


def slice_key(pci_address: str, profile: str, start: int) -> str:
    return f"{pci_address}/{profile}@{start}"


class GpuInstanceHandler:
    def __init__(self, gpus: Gpus, lab: str) -> None:
        self._gpus = gpus
        self._lab = lab

    def observe(self, resource: GpuInstance, record: Recorded | None) -> Observation:
        gpus = self._gpus()
        mode = gpus.nvml.mig_mode(resource.pci_address)
        if mode is None or not mode.current:
            return Observation(Presence.ABSENT)
        wanted = Placement(resource.start, resource.size)
        for instance in gpus.nvml.instances(resource.pci_address):
            if not instance.placement.overlaps(wanted):
                continue
            same = instance.profile == resource.profile and instance.placement == wanted
            key = slice_key(resource.pci_address, instance.profile, instance.placement.start)
            if same and (record is not None or gpus.ledger.owner(key) == self._lab):
                return Observation(Presence.OURS)
            whose = gpus.ledger.owner(key)
            owner = f"of lab {whose}" if whose else "that hyperscaler did not make"
            text = f"{instance.profile} at slice {instance.placement.start} of {resource.device}, {owner}, is there"
            return Observation(Presence.FOREIGN, detail=text)
        return Observation(Presence.ABSENT)

    def ensure(self, resource: GpuInstance, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous, context
        gpus = self._gpus()
        key = slice_key(resource.pci_address, resource.profile, resource.start)
        gpus.ledger.claim(key, self._lab)
        wanted = Placement(resource.start, resource.size)
        for instance in gpus.nvml.instances(resource.pci_address):
            if instance.profile == resource.profile and instance.placement == wanted:
                return {"gpu_instance_id": instance.gi_id}
        try:
            made = gpus.nvml.create_instance(resource.pci_address, self._profile_id(gpus, resource), wanted)
        except GpuError:
            gpus.ledger.release(key, self._lab)
            raise
        return {"gpu_instance_id": made.gi_id}

    def _profile_id(self, gpus: GpuHost, resource: GpuInstance) -> int:
        profiles = gpus.nvml.profiles(resource.pci_address)
        for profile in profiles:
            if profile.name == resource.profile:
                return profile.gi_profile_id
        names = ", ".join(profile.name for profile in profiles)
        raise GpuNotSupportedError(
            f"{resource.device} offers no profile {resource.profile}",
            where=resource.pci_address,
            fix=f"it offers {names}" if names else "switch MIG mode on first",
        )

    def delete(self, resource: GpuInstance, handle: Handle, context: ApplyContext) -> None:
        del handle, context
        gpus = self._gpus()
        mode = gpus.nvml.mig_mode(resource.pci_address)
        if mode is not None and mode.current:
            gpus.nvml.destroy_instance(resource.pci_address, self._profile_id(gpus, resource), resource.start)
        gpus.ledger.release(slice_key(resource.pci_address, resource.profile, resource.start), self._lab)

    def find(self, lab: str) -> Sequence[Resource]:
        """Slices that the host's ledger gives to the lab, whether its journal knows them or not."""
        gpus = self._gpus()
        found = []
        for key in gpus.ledger.of(lab):
            pci_address, _, rest = key.partition("/")
            profile, _, start = rest.partition("@")
            for instance in gpus.nvml.instances(pci_address) if start else ():
                if instance.profile == profile and instance.placement.start == int(start):
                    found.append(gpu_instance(pci_address, pci_address, profile, instance.placement))
        return tuple(found)


def gpu_instance(
    device: str, pci_address: str, profile: str, placement: Placement, needs: tuple[str, ...] = ()
) -> GpuInstance:
    """The resource of a slice; its name tells board, profile and start."""
    return GpuInstance(
        name=f"{pci_address}-{profile}-at-{placement.start}",
        needs=needs,
        device=device,
        pci_address=pci_address,
        profile=profile,
        start=placement.start,
        size=placement.size,
    )
