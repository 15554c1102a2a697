"""Recognises a lab's things on GPUs and in guests when its record and the host's ledger are lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.apply.gpu_ownership import slice_key, vgpu_key
from emulator.core.ports import Hostdev, HostdevKind
from emulator.gpu.ports import PciDevice, VgpuFramework
from emulator.host.gpus import NVIDIA_VENDOR
from emulator.plan.gpu_build import vgpu_uuid

if TYPE_CHECKING:
    from emulator.apply.handlers.gpu.host import GpuHost

VFIO_DRIVER = "vfio-pci"


@dataclass(frozen=True, slots=True)
class TracedVgpu:
    """A vGPU with a UUID of the lab. The UUID identifies the profile and start of its slice."""

    pci_address: str
    profile: str
    start: int
    uuid: str
    function: str

    @property
    def slice_key(self) -> str:
        return slice_key(self.pci_address, self.profile, self.start)


def traced_vgpus(gpus: GpuHost, lab: str) -> tuple[TracedVgpu, ...]:
    """The lab's vGPUs that have no owner in the ledger.

    Only mediated devices have UUIDs; in the vendor VFIO framework nothing on the GPU identifies a vGPU's owner. NVML is
    asked only if there are vGPUs without an owner.
    """
    claimed, name = gpus.ledger.in_effect(), gpus.ledger.full_name(lab)
    found = []
    for device in gpus.vgpus(VgpuFramework.MDEV).devices():
        gpu = _gpu_of(gpus, device.parent)
        if gpu is None or vgpu_key(gpu.address, str(device.uuid), device.parent) in claimed:
            continue
        for profile in gpus.nvml.profiles(gpu.address):
            for place in profile.placements or ():
                if str(vgpu_uuid(name, gpu.address, profile.name, place.start)) == str(device.uuid):
                    trace = TracedVgpu(gpu.address, profile.name, place.start, str(device.uuid), device.parent)
                    found.append(trace)
    return tuple(found)


def traced_slices(gpus: GpuHost, lab: str) -> frozenset[tuple[str, str, int]]:
    """GPU, profile and start of the slices under the lab's vGPUs that have no owner in the ledger."""
    owners = gpus.ledger.read()
    return frozenset(
        (trace.pci_address, trace.profile, trace.start)
        for trace in traced_vgpus(gpus, lab)
        if trace.slice_key not in owners
        for instance in gpus.nvml.instances(trace.pci_address)
        if (instance.profile, instance.placement.start) == (trace.profile, trace.start)
    )


def traced_gpus(gpus: GpuHost, passed: Iterable[Hostdev]) -> tuple[str, ...]:
    """Whole GPUs among the lab's guests' devices (`passed`) that have no owner in the ledger."""
    owners = gpus.ledger.read()
    found = []
    for address in sorted({item.address for item in passed if item.kind is HostdevKind.PCI}):
        device = gpus.pci.device(address)
        if device is not None and _is_gpu(device) and device.driver == VFIO_DRIVER and address not in owners:
            found.append(address)
    return tuple(found)


def gpus_with_traces(gpus: GpuHost, passed: Iterable[Hostdev]) -> frozenset[str]:
    """GPUs whose virtual functions the lab's guests have without a claim: the slices on them cannot be attributed."""
    functions = {item.address for item in passed if item.kind is HostdevKind.VFIO_VF}
    claimed = {key.rpartition("/")[2] for key in gpus.ledger.read() if "/vgpu/" in key}
    devices = (_gpu_of(gpus, address) for address in functions - claimed)
    return frozenset(gpu.address for gpu in devices if gpu is not None)


def _gpu_of(gpus: GpuHost, function: str) -> PciDevice | None:
    """The physical function; None if it is not an NVIDIA GPU."""
    device = gpus.pci.device(function)
    gpu = gpus.pci.device(device.physfn) if device is not None and device.physfn else device
    return gpu if gpu is not None and _is_gpu(gpu) else None


def _is_gpu(device: PciDevice) -> bool:
    return device.vendor == NVIDIA_VENDOR and device.class_code.startswith("03") and device.physfn is None
