"""GPU resources: MIG mode, virtual functions, GPU instances, vGPUs and whole GPUs.

They are created in this order and removed in the reverse: MIG mode, then VFs (enabling them re-binds the driver and
erases GPU instances), then GPU instances, then vGPUs. All resources of a GPU are `exclusive` to it, so that a removed
slice frees its memory slices before another slice takes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emulator.gpu.model import Placement
from emulator.plan.resources import OMIT_EMPTY, Resource, register

GPU_GROUP = "gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuResource(Resource):
    """A resource on a GPU. `device` is the GPU's id in the lab file, `pci_address` such as 0000:41:00.0."""

    volatile = True
    group = GPU_GROUP
    device: str
    pci_address: str

    @property
    def exclusive(self) -> tuple[str, ...]:
        return (f"gpu/{self.pci_address}",)


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class MigMode(GpuResource):
    """MIG mode on. Its handle records whether it was on before, so that `destroy` restores that."""

    kind = "mig-mode"


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualFunctions(GpuResource):
    """The SR-IOV virtual functions that vGPUs are made on."""

    kind = "virtual-functions"


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class GpuInstance(GpuResource):
    """A MIG slice at an explicit placement; `start` and `size` count memory slices.

    The profile is given by name; the driver's profile and instance ids are looked up each time.
    """

    kind = "gpu-instance"
    profile: str
    start: int
    size: int

    @property
    def placement(self) -> Placement:
        return Placement(self.start, self.size)

    @property
    def chain(self) -> str:
        return _chain(self.pci_address, self.profile)


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class Vgpu(GpuResource):
    """A vGPU on a GPU instance, for one node. The mdev framework uses `uuid`; `demand` is the planner's id."""

    kind = "vgpu"
    profile: str
    uuid: str
    node: str
    demand: str

    @property
    def chain(self) -> str:
        return _chain(self.pci_address, self.profile)


def slice_name(pci_address: str, profile: str, start: int) -> str:
    """The name of a slice's resources, its GPU instance and the vGPU on it."""
    return f"{pci_address}-{profile}-at-{start}"


def _chain(pci_address: str, profile: str) -> str:
    """The chain that creates a GPU's slices of one profile one after the other, each with its vGPU.

    The driver puts a vGPU on any free GPU instance of its profile and offers no choice. If two slices were free, a
    slice that should be removed might carry another node's vGPU.
    """
    return f"{pci_address}/{profile}"


@register
@dataclass(frozen=True, slots=True, kw_only=True)
class WholeGpu(GpuResource):
    """A whole GPU bound to vfio-pci with the other functions of its slot, for one node.

    `group_gpus` are the PCI addresses of other GPUs of its IOMMU group, which go to the same node.
    """

    kind = "whole-gpu"
    node: str
    demand: str
    group_gpus: tuple[str, ...] = field(default=(), metadata=OMIT_EMPTY)
