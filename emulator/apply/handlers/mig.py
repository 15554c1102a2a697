"""Cutting GPUs: MIG mode, virtual functions, GPU instances."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from emulator.apply.gpu_ownership import functions_key, mode_key, slice_key, slice_of, vgpus_on
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.handlers.gpu_discovery import VFIO_DRIVER, traced_slices
from emulator.apply.handlers.gpu_host import GpuHost, Gpus
from emulator.apply.handlers.mig_mode import required_mig_mode, switch_mig_mode
from emulator.core.errors import GpuError, HyperscalerError
from emulator.gpu.errors import GpuBusyError, GpuNotSupportedError
from emulator.gpu.model import GpuInstance as Slice
from emulator.gpu.model import Placement
from emulator.gpu.ports import (
    VgpuFramework,
)
from emulator.plan.gpu_resources import GpuInstance, GpuResource, MigMode, Vgpu, VirtualFunctions, slice_name
from emulator.plan.model import Action, Observation, Presence, Recorded
from emulator.plan.resources import Resource


class MigModeHandler:
    """MIG mode on. A switch that does not take effect at once is taken back, so that no reset springs a surprise."""

    def __init__(self, gpus: Gpus) -> None:
        self._gpus = gpus

    def observe(self, resource: MigMode, record: Recorded | None) -> Observation:
        del record
        gpus = self._gpus()
        if _away(gpus, resource):
            return Observation(Presence.ABSENT)  # whether it may come back is for the virtual functions to say
        mode = gpus.nvml.mig_mode(resource.pci_address)
        if mode is None:
            return Observation(Presence.FOREIGN, detail=f"{resource.device} has no MIG")
        waits = "waits for a reset of the GPU" if mode.waits_for_reset else ""
        if not mode.current:
            return Observation(Presence.ABSENT, detail=waits)
        return Observation(Presence.OURS, drift=(waits,) if waits else ())

    def ensure(self, resource: MigMode, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        gpus = self._gpus()
        key = mode_key(resource.pci_address)
        with gpus.ledger.layout():
            mode = required_mig_mode(gpus.nvml, resource)
            mine = gpus.ledger.owner(key) == context.lab
            # What a record says of the time before counts only while it lasted: whoever finds the mode off, makes it.
            before = mode.current and context.handle(resource.id).get("was_enabled", not mine)
            if not mode.current or mode.waits_for_reset:
                if not before and gpus.ledger.owner(key) is None:
                    gpus.ledger.claim(key, context.lab)
                try:
                    switch_mig_mode(gpus.nvml, gpus.pci, resource, enabled=True)
                except GpuError:
                    if surely_not(lambda: required_mig_mode(gpus.nvml, resource).current):
                        gpus.ledger.release(key, context.lab)
                    raise
            return {"was_enabled": before}

    def delete(self, resource: MigMode, handle: Handle, context: ApplyContext) -> None:
        gpus = self._gpus()
        key = mode_key(resource.pci_address)
        with gpus.ledger.layout():
            # Without a handle and a claim nobody knows how it was.
            if handle.get("was_enabled", True) and gpus.ledger.owner(key) != context.lab:
                return
            mode = gpus.nvml.mig_mode(resource.pci_address)
            device = gpus.pci.device(resource.pci_address)
            # The driver does not leave MIG mode while there are virtual functions.
            held = device is not None and bool(device.virtfns)
            if held and gpus.ledger.owner(functions_key(resource.pci_address)) == context.lab:
                raise GpuBusyError(
                    f"the virtual functions of {resource.device} are still there",
                    where=resource.pci_address,
                    fix="run the same command again; they go before MIG mode is switched off",
                )
            if mode is not None and mode.current and not _still_needed(gpus, resource, key, context) and not held:
                switch_mig_mode(gpus.nvml, gpus.pci, resource, enabled=False)
            gpus.ledger.release(key, context.lab)

    def find(self, lab: str) -> Sequence[Resource]:
        """GPUs whose MIG mode the lab switched on."""
        gpus = _gpus_of(self._gpus(), lab, mode_key)
        return tuple(MigMode(name=gpu, device=gpu, pci_address=gpu) for gpu in gpus)


def surely_not(there: Callable[[], bool]) -> bool:
    """Whether a call that reported an error left nothing behind: only then the claim on it may go.

    A driver can fail after it has done what it was asked; a look that fails, too, proves nothing.
    """
    try:
        return not there()
    except HyperscalerError:
        return False


def _away(gpus: GpuHost, resource: GpuResource) -> bool:
    """Whether the GPU is out with a guest as a whole: NVML does not see it then."""
    device = gpus.pci.device(resource.pci_address)
    return device is not None and device.driver == VFIO_DRIVER


def _gpus_of(gpus: GpuHost, lab: str, key: Callable[[str], str]) -> tuple[str, ...]:
    return tuple(gpu for item in gpus.ledger.of(lab) if item == key(gpu := item.partition("/")[0]))


def _still_needed(gpus: GpuHost, resource: MigMode | VirtualFunctions, key: str, context: ApplyContext) -> bool:
    """Whether something of others on the GPU needs what this lab would take away; the claim passes to them."""
    others = [owner for name, owner in gpus.ledger.read().items() if name.startswith(f"{resource.pci_address}/")]
    heirs = [owner for owner in others if owner != context.lab]
    slices = gpus.nvml.instances(resource.pci_address)
    for item in slices:
        if gpus.ledger.holds(context.lab, slice_key(resource.pci_address, item.profile, item.placement.start)):
            raise GpuBusyError(
                f"{item.profile} at slice {item.placement.start} of {resource.device} is still there",
                where=resource.pci_address,
                fix="run the same command again; slices go before the GPU is given back",
            )
    if not heirs and not slices and not _vgpus_on(gpus, resource.pci_address):
        return False
    context.report(f"{resource.device} stays as it is for {'lab ' + heirs[0] if heirs else 'slices of others'}")
    if heirs:
        gpus.ledger.pass_on(key, context.lab, heirs[0])
    return True


def _vgpus_on(gpus: GpuHost, pci_address: str) -> bool:
    framework = gpus.pci.framework(pci_address)
    if framework is VgpuFramework.NONE:
        return False
    return any(parent.devices for parent in gpus.vgpus(framework).parents(pci_address))


class VirtualFunctionsHandler:
    def __init__(self, gpus: Gpus, lab: str) -> None:
        self._gpus = gpus
        self._lab = lab

    def observe(self, resource: VirtualFunctions, record: Recorded | None) -> Observation:
        del record
        gpus = self._gpus()
        if _away(gpus, resource):
            owner = gpus.ledger.owner(resource.pci_address)
            if owner == self._lab:
                return Observation(Presence.ABSENT)  # this lab had it whole and gives it back in the same plan
            whose = f"belongs to lab {owner}" if owner else "is bound to vfio-pci, and not by hyperscaler"
            return Observation(Presence.FOREIGN, detail=f"{resource.device} {whose}")
        return Observation(Presence.OURS if self._enabled(resource) else Presence.ABSENT)

    def _enabled(self, resource: VirtualFunctions) -> bool:
        device = self._gpus().pci.device(resource.pci_address)
        return device is not None and bool(device.virtfns)

    def ensure(self, resource: VirtualFunctions, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        gpus = self._gpus()
        key = functions_key(resource.pci_address)
        with gpus.ledger.layout():
            enabled = self._enabled(resource)
            mine = gpus.ledger.owner(key) == self._lab
            # They are gone after each reboot: whoever finds them off, makes them, whatever was recorded before.
            before = enabled and context.handle(resource.id).get("were_enabled", not mine)
            if not enabled:
                _refuse_to_erase(gpus, resource, self._lab)
                if not before and gpus.ledger.owner(key) is None:
                    gpus.ledger.claim(key, self._lab)
                context.report("sriov-manage re-binds the driver")
                try:
                    with gpus.nvml.released():
                        gpus.sriov.enable(resource.pci_address)
                except HyperscalerError:
                    if surely_not(lambda: self._enabled(resource)):
                        gpus.ledger.release(key, self._lab)
                    raise
            return {"were_enabled": before}

    def delete(self, resource: VirtualFunctions, handle: Handle, context: ApplyContext) -> None:
        gpus = self._gpus()
        key = functions_key(resource.pci_address)
        with gpus.ledger.layout():
            if handle.get("were_enabled", True) and gpus.ledger.owner(key) != self._lab:
                return
            if self._enabled(resource) and not _still_needed(gpus, resource, key, context):
                with gpus.nvml.released():
                    gpus.sriov.disable(resource.pci_address)
            gpus.ledger.release(key, self._lab)

    def find(self, lab: str) -> Sequence[Resource]:
        """GPUs whose virtual functions the lab enabled."""
        gpus = _gpus_of(self._gpus(), lab, functions_key)
        return tuple(VirtualFunctions(name=gpu, device=gpu, pci_address=gpu) for gpu in gpus)


def _refuse_to_erase(gpus: GpuHost, resource: VirtualFunctions, lab: str) -> None:
    """sriov-manage re-binds the driver, which erases every GPU instance of the GPU, ours or not."""
    mine = set(gpus.ledger.held(lab))
    foreign = [
        f"{instance.profile} at {instance.placement.start}"
        for instance in gpus.nvml.instances(resource.pci_address)
        if slice_key(resource.pci_address, instance.profile, instance.placement.start) not in mine
    ]
    if foreign:
        raise GpuBusyError(
            f"enabling virtual functions of {resource.device} would erase GPU instances that are not this lab's: "
            + ", ".join(foreign),
            where=resource.pci_address,
            fix="take these away first (nvidia-smi mig -dgi), or use another GPU",
        )


class GpuInstanceHandler:
    """Slices are known by (GPU, profile, start); whose they are is in the ledger, written before the slice is."""

    def __init__(self, gpus: Gpus, lab: str) -> None:
        self._gpus = gpus
        self._lab = lab

    def observe(self, resource: GpuInstance, record: Recorded | None) -> Observation:
        gpus = self._gpus()
        mode = None if _away(gpus, resource) else gpus.nvml.mig_mode(resource.pci_address)
        if mode is None or not mode.current:
            return Observation(Presence.ABSENT)
        for instance in gpus.nvml.instances(resource.pci_address):
            if not instance.placement.overlaps(resource.placement):
                continue
            if _is(resource, instance) and self._ours(gpus, resource, settled_handle(record)):
                return Observation(Presence.OURS)
            key = slice_key(resource.pci_address, instance.profile, instance.placement.start)
            if gpus.ledger.holds(self._lab, key):
                continue  # one of our own that gives way in the same plan
            whose = gpus.ledger.in_effect().get(key)
            owner = f"of lab {whose}" if whose else "that hyperscaler did not make"
            text = f"{instance.profile} at slice {instance.placement.start} of {resource.device}, {owner}, is there"
            return Observation(Presence.FOREIGN, detail=text)
        return Observation(Presence.ABSENT)

    def _ours(self, gpus: GpuHost, resource: GpuInstance, handle: Handle) -> bool:
        """By the ledger; where that was lost, by the handle of a creation that came to its end. Either counts in the
        boot of the host that it was made in alone: no slice outlives that, so what is there now was made by others.
        Where both are lost, the lab's vGPU on it tells."""
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
            ours = self._ours(gpus, resource, context.handle(resource.id))
            for instance in gpus.nvml.instances(resource.pci_address):
                if _is(resource, instance):
                    if not ours:
                        raise GpuBusyError(
                            f"{resource.profile} at slice {resource.start} of {resource.device} is there already and "
                            "is not this lab's",
                            where=resource.pci_address,
                            fix="hyperscaler gpu discover shows it; plan again",
                        )
                    gpus.ledger.claim(key, self._lab)
                    return {"gpu_instance_id": instance.gi_id, "boot": gpus.ledger.boot_id()}
            gpus.ledger.claim(key, self._lab)
            try:
                profile_id = profile_id_of(gpus, resource)
                made = gpus.nvml.create_instance(resource.pci_address, profile_id, resource.placement)
            except GpuError:
                if surely_not(lambda: any(_is(resource, item) for item in gpus.nvml.instances(resource.pci_address))):
                    gpus.ledger.release(key, self._lab)
                raise
            return {"gpu_instance_id": made.gi_id, "boot": gpus.ledger.boot_id()}

    def delete(self, resource: GpuInstance, handle: Handle, context: ApplyContext) -> None:
        gpus = self._gpus()
        with gpus.ledger.layout():
            key = slice_key(resource.pci_address, resource.profile, resource.start)
            if not self._ours(gpus, resource, {} if context.resumed else handle):
                gpus.ledger.release(key, self._lab)  # a reservation from before a reboot
                return
            gpus.ledger.claim(key, self._lab)  # where only the handle told: it does not count once this has begun
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
            # Which slice a vGPU is on the driver chose, and does not tell before a guest runs.
            raise GpuBusyError(
                f"{error.what}; a vGPU of lab {' or '.join(sorted(others))} may be on it",
                where=error.where,
                fix=f"stop what uses it, or destroy that lab first; {error.fix}",
            ) from error

    def find(self, lab: str) -> Sequence[Resource]:
        """Slices that the host's ledger gives to the lab, whether its journal knows them or not, and those under
        vGPUs of the lab."""
        gpus = self._gpus()
        return tuple(
            gpu_instance(pci_address, pci_address, profile, Placement(start, 1))
            for pci_address, profile, start in (*slices_of(gpus, {lab}), *sorted(traced_slices(gpus, lab)))
        )


def settled_handle(record: Recorded | None) -> Handle:
    """The handle of something that no run has begun to delete; nothing of one that may have: such a run strikes out
    the claim once the thing is gone, and what is there without a claim may be somebody else's, made since."""
    return record.handle if record is not None and record.open_action != Action.DELETE.value else {}


def made_in_this_boot(gpus: GpuHost, handle: Handle) -> bool:
    """Whether a handle is of something that was made since the host started; older versions did not write it down."""
    return bool(handle) and handle.get("boot", "") in ("", gpus.ledger.boot_id())


def slices_of(gpus: GpuHost, labs: Collection[str]) -> tuple[tuple[str, str, int], ...]:
    """GPU, profile and start of each slice that the ledger gives to one of the labs."""
    found = (slice_of(key) for key, owner in gpus.ledger.read().items() if owner in labs)
    return tuple(place for place in found if place is not None)


def _is(resource: GpuInstance, instance: Slice) -> bool:
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
        fix=f"it offers {names}" if names else "switch MIG mode on first",
    )


def gpu_instance(
    device: str, pci_address: str, profile: str, placement: Placement, needs: tuple[str, ...] = ()
) -> GpuInstance:
    """The resource of a slice; its name tells GPU, profile and start."""
    return GpuInstance(
        name=slice_name(pci_address, profile, placement.start),
        needs=needs,
        device=device,
        pci_address=pci_address,
        profile=profile,
        start=placement.start,
        size=placement.size,
    )
