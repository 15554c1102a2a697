"""Resources for an allocation of slices and GPUs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from emulator.core import ids
from emulator.gpu.placement.demand import Assignment
from emulator.plan.build import GpuResources
from emulator.plan.gpu_resources import (
    GpuInstance,
    GpuResource,
    MigMode,
    Vgpu,
    VirtualFunctions,
    WholeGpu,
    slice_name,
)
from emulator.plan.resources import HostdevRequest, Resource


def build_gpus(
    lab: str,
    gpus: Mapping[str, str],
    nodes: Mapping[str, Sequence[Assignment]],
    *,
    group_gpus: Mapping[str, Sequence[str]] | None = None,
) -> GpuResources:
    """Resources for every assignment, and the devices of each node.

    Args:
        lab: the lab's name that is unique on the host (`GpuLedger.full_name`).
        gpus: PCI address by the device's id in the lab file.
        nodes: assignments by node name.
        group_gpus: by PCI address the other GPUs of its IOMMU group that go to the same node.
    """
    resources: dict[str, Resource] = {}
    hostdevs: dict[str, tuple[HostdevRequest, ...]] = {}
    for node, assignments in nodes.items():
        devices = []
        for assignment in assignments:
            address = gpus[assignment.gpu]
            made = _made_of(lab, node, assignment, address, tuple((group_gpus or {}).get(address, ())))
            resources |= {resource.id: resource for resource in made}
            devices.append(HostdevRequest(source=made[-1].id))
        hostdevs[node] = tuple(devices)
    return GpuResources(tuple(resources.values()), hostdevs)


def _made_of(
    lab: str, node: str, assignment: Assignment, address: str, group_gpus: tuple[str, ...]
) -> Sequence[GpuResource]:
    """Resources that one assignment needs, in order; the last one is the guest's device."""
    device = assignment.gpu
    if assignment.placement is None or assignment.profile is None:
        whole = WholeGpu(
            name=address,
            device=device,
            pci_address=address,
            node=node,
            demand=assignment.demand,
            group_gpus=group_gpus,
        )
        return (whole,)
    mode = MigMode(name=address, device=device, pci_address=address)
    functions = VirtualFunctions(name=address, needs=(mode.id,), device=device, pci_address=address)
    where = slice_name(address, assignment.profile, assignment.placement.start)
    instance = GpuInstance(
        name=where,
        needs=(mode.id, functions.id),
        device=device,
        pci_address=address,
        profile=assignment.profile,
        start=assignment.placement.start,
        size=assignment.placement.size,
    )
    vgpu = Vgpu(
        name=where,
        needs=(functions.id, instance.id),
        device=device,
        pci_address=address,
        profile=assignment.profile,
        uuid=str(vgpu_uuid(lab, address, assignment.profile, assignment.placement.start)),
        node=node,
        demand=assignment.demand,
    )
    return (mode, functions, instance, vgpu)


def vgpu_uuid(lab: str, pci_address: str, profile: str, start: int) -> UUID:
    """The UUID of the vGPU on a slice, derived from lab and slice so that it is known without a record.

    `lab` is the name that is unique on the host, since labs of two homes may have the same name.
    """
    return ids.resource_uuid(lab, f"vgpu/{pci_address}-{profile}-at-{start}")


def current_assignments(resources: Sequence[Resource]) -> dict[str, Assignment]:
    """Where demands are now, by demand id, according to the record."""
    instances = {(r.pci_address, r.name): r for r in resources if isinstance(r, GpuInstance)}
    found: dict[str, Assignment] = {}
    for resource in resources:
        if isinstance(resource, WholeGpu):
            found[resource.demand] = Assignment(resource.demand, resource.device)
        elif isinstance(resource, Vgpu) and (resource.pci_address, resource.name) in instances:
            at = instances[(resource.pci_address, resource.name)]
            found[resource.demand] = Assignment(resource.demand, resource.device, resource.profile, at.placement)
    return found
