"""Virtual functions of a GPU: enabled for the lab's vGPUs, and disabled when the lab was the one to enable them."""

from __future__ import annotations

from collections.abc import Sequence

from emulator.apply.gpu_ownership import functions_key, slice_key
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.handlers.gpu.evidence import surely_absent
from emulator.apply.handlers.gpu.host import GpuHost, Gpus
from emulator.apply.handlers.gpu.shared_settings import claimed_gpus, handed_on, has_virtual_functions, passed_through
from emulator.core.errors import HyperscalerError
from emulator.gpu.errors import GpuBusyError
from emulator.plan.gpu_resources import VirtualFunctions
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Resource


class VirtualFunctionsHandler:
    """Enables the virtual functions that vGPUs are made on. They are gone after each reboot."""

    def __init__(self, gpus: Gpus, lab: str) -> None:
        self._gpus = gpus
        self._lab = lab

    def observe(self, resource: VirtualFunctions, record: Recorded | None) -> Observation:
        del record
        gpus = self._gpus()
        if passed_through(gpus, resource.pci_address):
            owner = gpus.ledger.owner(resource.pci_address)
            if owner == self._lab:
                return Observation(Presence.ABSENT)  # the same plan gives back the whole GPU
            whose = f"belongs to lab {owner}" if owner else "is bound to vfio-pci, and not by hyperscaler"
            return Observation(Presence.FOREIGN, detail=f"{resource.device} {whose}")
        enabled = has_virtual_functions(gpus, resource.pci_address)
        return Observation(Presence.OURS if enabled else Presence.ABSENT)

    def ensure(self, resource: VirtualFunctions, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        gpus = self._gpus()
        key = functions_key(resource.pci_address)
        with gpus.ledger.layout():
            enabled = has_virtual_functions(gpus, resource.pci_address)
            mine = gpus.ledger.owner(key) == self._lab
            # The recorded earlier state does not survive a reboot: a lab that finds them off makes them anew.
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
                    if surely_absent(lambda: has_virtual_functions(gpus, resource.pci_address)):
                        gpus.ledger.release(key, self._lab)
                    raise
            return {"were_enabled": before}

    def delete(self, resource: VirtualFunctions, handle: Handle, context: ApplyContext) -> None:
        gpus = self._gpus()
        key = functions_key(resource.pci_address)
        with gpus.ledger.layout():
            if handle.get("were_enabled", True) and gpus.ledger.owner(key) != self._lab:
                return
            if has_virtual_functions(gpus, resource.pci_address) and not handed_on(gpus, resource, key, context):
                with gpus.nvml.released():
                    gpus.sriov.disable(resource.pci_address)
            gpus.ledger.release(key, self._lab)

    def find(self, lab: str) -> Sequence[Resource]:
        """GPUs whose virtual functions the lab enabled."""
        gpus = claimed_gpus(self._gpus(), lab, functions_key)
        return tuple(VirtualFunctions(name=gpu, device=gpu, pci_address=gpu) for gpu in gpus)


def _refuse_to_erase(gpus: GpuHost, resource: VirtualFunctions, lab: str) -> None:
    """Refuse while others have GPU instances on the GPU: sriov-manage re-binds the driver, which erases them all.

    Raises:
        GpuBusyError: names the instances.
    """
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
            fix="remove these first (nvidia-smi mig -dgi), or use another GPU",
        )
