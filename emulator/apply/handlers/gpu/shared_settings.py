"""What MIG mode and virtual functions have in common: settings of a whole GPU, on which several labs may rely."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator.apply.gpu_ownership import slice_key
from emulator.apply.handler import ApplyContext
from emulator.apply.handlers.gpu.discovery import VFIO_DRIVER
from emulator.gpu.errors import GpuBusyError
from emulator.gpu.ports import VgpuFramework
from emulator.plan.gpu_resources import GpuResource

if TYPE_CHECKING:
    from emulator.apply.handlers.gpu.host import GpuHost


def passed_through(gpus: GpuHost, pci_address: str) -> bool:
    """Whether the GPU is bound to vfio-pci as a whole. NVML does not see it then."""
    device = gpus.pci.device(pci_address)
    return device is not None and device.driver == VFIO_DRIVER


def has_virtual_functions(gpus: GpuHost, pci_address: str) -> bool:
    device = gpus.pci.device(pci_address)
    return device is not None and bool(device.virtfns)


def claimed_gpus(gpus: GpuHost, lab: str, key_of: Callable[[str], str]) -> tuple[str, ...]:
    """PCI addresses of the GPUs for which the lab has claimed the setting that `key_of` names."""
    return tuple(gpu for key in gpus.ledger.of(lab) if key == key_of(gpu := key.partition("/")[0]))


def handed_on(gpus: GpuHost, resource: GpuResource, key: str, context: ApplyContext) -> bool:
    """Whether the setting must stay because others use the GPU; another lab on it inherits the claim.

    Raises:
        GpuBusyError: a slice of this lab is still there.
    """
    slices = gpus.nvml.instances(resource.pci_address)
    for item in slices:
        if gpus.ledger.holds(context.lab, slice_key(resource.pci_address, item.profile, item.placement.start)):
            raise GpuBusyError(
                f"{item.profile} at slice {item.placement.start} of {resource.device} is still there",
                where=resource.pci_address,
                fix="run the same command again; slices go before the GPU is given back",
            )
    heirs = _other_owners(gpus, resource, context.lab)
    if not heirs and not slices and not _has_vgpus(gpus, resource.pci_address):
        return False
    users = f"lab {heirs[0]}" if heirs else "slices of others"
    context.report(f"{resource.device} stays as it is for {users}")
    if heirs:
        gpus.ledger.pass_on(key, context.lab, heirs[0])
    return True


def _other_owners(gpus: GpuHost, resource: GpuResource, lab: str) -> list[str]:
    start = f"{resource.pci_address}/"
    return [owner for key, owner in gpus.ledger.read().items() if key.startswith(start) and owner != lab]


def _has_vgpus(gpus: GpuHost, pci_address: str) -> bool:
    framework = gpus.pci.framework(pci_address)
    if framework is VgpuFramework.NONE:
        return False
    return any(parent.devices for parent in gpus.vgpus(framework).parents(pci_address))
