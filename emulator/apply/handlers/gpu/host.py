"""The ports to the host's GPUs and the ledger of their owners, as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emulator.apply.gpu_ownership import GpuLedger
from emulator.apply.handler import Handle
from emulator.core.ports import Hostdev, HostdevKind
from emulator.gpu.ports import (
    NvmlGpus,
    PassthroughControl,
    PciBus,
    SriovControl,
    VgpuFramework,
    VgpuHost,
)


@dataclass(frozen=True, slots=True)
class GpuHost:
    """The ports through which GPUs are read and changed, and the ledger of who owns what on them.

    `real` is False for simulated GPUs: none of their devices can be passed to a guest.
    """

    nvml: NvmlGpus
    pci: PciBus
    sriov: SriovControl
    vgpus: Callable[[VgpuFramework], VgpuHost]
    passthrough: PassthroughControl
    ledger: GpuLedger
    real: bool


Gpus = Callable[[], GpuHost]


def hostdevs_of(gpus: Gpus, handle: Handle) -> tuple[Hostdev, ...]:
    """The host devices for the domain XML, from the handle of a vGPU or a whole GPU.

    A simulated GPU has none: its guest gets the slices as inventory data.
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
