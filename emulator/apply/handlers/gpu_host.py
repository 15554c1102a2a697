"""The ports to the host's GPUs, and the record of who owns what on them, as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emulator.apply.gpu_ownership import GpuLedger
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
    """The ports through which GPUs are read and changed, and the record of who owns what on them.

    `real` False: the GPUs are simulated, so that nothing of them can be handed to a guest as a device.
    """

    nvml: NvmlGpus
    pci: PciBus
    sriov: SriovControl
    vgpus: Callable[[VgpuFramework], VgpuHost]
    passthrough: PassthroughControl
    ledger: GpuLedger
    real: bool


Gpus = Callable[[], GpuHost]
