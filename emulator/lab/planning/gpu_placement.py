"""GPUs in the plan: which backend, who gets what, and what it means for hosts and guests."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from emulator.apply.gpu_ownership import slice_key, whole_gpus
from emulator.apply.handlers.gpu.discovery import traced_gpus, traced_slices
from emulator.apply.handlers.gpu.evidence import made_in_this_boot, settled_handle
from emulator.apply.handlers.gpu.gpu_instance import slices_of
from emulator.apply.handlers.gpu.host import GpuHost
from emulator.apply.state import State
from emulator.core.errors import ConflictError, HostNotFitError
from emulator.core.ports import Hostdev
from emulator.gpu.catalog import find_gpu
from emulator.gpu.model import GpuInstance, GpuModel, Placement
from emulator.gpu.placement.demand import GpuState, GpuUse, Infeasible
from emulator.guests.inventory.model import NodeGpu
from emulator.host.gpu_demand import asks_for_whole_gpus
from emulator.host.gpu_fitness import require_fit
from emulator.host.gpus import Gpu, discover_gpus, kept_for_guests, require_devices
from emulator.host.iommu_groups import group_mates
from emulator.labfile.model import ClusterSpec, GpuBackend
from emulator.plan.build import GpuResources
from emulator.plan.gpu_allocation import allocate, demands_of, gpu_states
from emulator.plan.gpu_build import build_gpus, current_assignments
from emulator.plan.gpu_resources import GpuInstance as GpuInstanceResource
from emulator.plan.gpu_resources import MigMode, Vgpu, VirtualFunctions, WholeGpu
from emulator.plan.model import Action, Plan

GPU_FACT = "gpu"
NodeGpus = Mapping[str, tuple[NodeGpu, ...]]


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """Resources and devices for the plan; `notes` are for the operator."""

    resources: GpuResources = field(default_factory=GpuResources)
    notes: tuple[str, ...] = ()


def backend_of(state: State, spec: ClusterSpec) -> str:
    """`nvml`, `simulated`, or an empty string for a lab without GPUs. A lab keeps its backend.

    Raises:
        ConflictError: the file now asks for another one.
    """
    if not spec.gpu.devices:
        return state.facts.get(GPU_FACT, "")
    wanted = GpuBackend.SIMULATED if spec.gpu.backend is GpuBackend.SIMULATED else GpuBackend.NVML
    recorded = state.facts.get(GPU_FACT)
    if recorded and recorded != wanted.value:
        raise ConflictError(
            f"the lab's GPUs are {recorded}, the file now asks for {wanted.value}",
            where="global.gpu_allocation.backend",
            fix=f"set it back, or `hyperscaler destroy {spec.name}` first",
        )
    return wanted.value


def plan_gpus(spec: ClusterSpec, host: GpuHost | None, state: State, passed: Sequence[Hostdev] = ()) -> GpuPlan:
    """Place what the nodes ask for around what is on the GPUs already; slices in use stay where they are.

    Args:
        passed: what guests of the lab have of the host's devices.

    Raises:
        HostNotFitError: the GPUs are not what the file says, or what is asked for does not fit.
    """
    if host is None or not spec.gpu.devices:
        return GpuPlan()
    gpus = discover_gpus(host.nvml, host.pci)
    # Only a lab of slices needs the driver on every GPU.
    kept = kept_for_guests(gpus) if asks_for_whole_gpus(spec) else frozenset()
    require_devices(spec.gpu.devices, gpus, out=(*whole_gpus(host.ledger.read()), *traced_gpus(host, passed), *kept))
    by_address = {gpu.pci_address: gpu for gpu in gpus}
    states = gpu_states(
        spec.gpu,
        models={
            device.id: model
            for device in spec.gpu.devices
            if (model := _reported(by_address[device.pci_address])) is not None
        },
        instances={
            device.id: _foreign(host, spec.name, by_address[device.pci_address], state) for device in spec.gpu.devices
        },
    )
    addresses = {device.id: device.pci_address for device in spec.gpu.devices}
    # What vfio-pci has cannot be cut.
    states = tuple(replace(gpu, use=GpuUse.WHOLE) if addresses[gpu.id] in kept else gpu for gpu in states)
    current = current_assignments([record.resource for record in state.resources.values()])
    answer = allocate(spec, states, current, pinned=_pinned(spec, states, state))
    if isinstance(answer, Infeasible):
        raise HostNotFitError(
            "the slices do not fit on the GPUs: " + "; ".join(answer.reasons),
            where="global.gpu_allocation",
            fix="; or ".join(answer.changes) or "`hyperscaler gpu plan FILE` shows the GPUs",
        )
    mates = group_mates(
        {gpu.pci_address: gpu.pci.iommu_group if gpu.pci else None for gpu in gpus},
        {name: [addresses[item.gpu] for item in found if item.whole] for name, found in answer.nodes.items()},
    )
    require_fit(
        {(item.gpu, not item.whole) for node in answer.nodes.values() for item in node},
        {device: by_address[address] for device, address in addresses.items()},
        group_gpus=mates,
        given={*mates, *whole_gpus(host.ledger.read())},
    )
    resources = build_gpus(host.ledger.full_name(spec.name), addresses, answer.nodes, group_gpus=mates)
    return GpuPlan(_as_made(resources, state), answer.notes)


def _as_made(gpus: GpuResources, state: State) -> GpuResources:
    """vGPUs on record keep their UUIDs: older versions made them without the home, and guests need not restart."""
    made = {key: record.resource.uuid for key, record in state.resources.items() if isinstance(record.resource, Vgpu)}
    kept = (
        dataclasses.replace(item, uuid=made.get(item.id, item.uuid)) if isinstance(item, Vgpu) else item
        for item in gpus.resources
    )
    return dataclasses.replace(gpus, resources=tuple(kept))


def gpu_layout_held(gpus: Callable[[], GpuHost] | None) -> AbstractContextManager[None]:
    """Keep every other command from changing slices or claiming places on the GPUs; no-op for a lab without GPUs."""
    return contextlib.nullcontext() if gpus is None else gpus().ledger.layout()


def slices_to_make(plan: Plan) -> tuple[GpuInstanceResource, ...]:
    """The slices that the plan makes."""
    return tuple(
        change.resource
        for change in plan.changes
        if change.action is not Action.DELETE and isinstance(change.resource, GpuInstanceResource)
    )


# What depends on the place of a slice: the vGPU on it and, where the slice's GPU is new to the lab, that GPU.
_FOLLOWS_SLICES = (GpuInstanceResource, Vgpu, MigMode, VirtualFunctions)


def changes_besides_slices(plan: Plan) -> tuple[tuple[Action, str], ...]:
    """What the plan does to everything that does not depend on where slices are."""
    others = (change for change in plan.changes if not isinstance(change.resource, _FOLLOWS_SLICES))
    return tuple(sorted((change.action, change.resource.id) for change in others))


def _reported(gpu: Gpu) -> GpuModel | None:
    """The GPU as its driver describes it; None while MIG is off, when the catalogue has to do."""
    if gpu.nvml is None or not gpu.nvml.profiles:
        return None
    profiles = gpu.nvml.profiles
    if gpu.model is not None:
        return dataclasses.replace(gpu.model, profiles=profiles)
    ends = [placement.end for profile in profiles for placement in profile.placements or ()]
    return GpuModel(
        id=gpu.nvml.name,
        product_names=(gpu.nvml.name,),
        pci_ids=(gpu.nvml.pci_id,),
        architecture=gpu.nvml.architecture,
        mig_capable=True,
        memory_mib=gpu.nvml.memory_total_mib,
        compute_slices=max(profile.compute_slices for profile in profiles),
        memory_slices=max(ends, default=0),
        max_gpu_instances=max(profile.max_instances for profile in profiles),
        profiles=profiles,
    )


def _foreign(host: GpuHost, lab: str, gpu: Gpu, state: State) -> tuple[GpuInstance, ...]:
    """Instances on the GPU that are not this lab's: they stay where they are."""
    mine = set(host.ledger.held(lab))
    for record in state.resources.values():
        if isinstance(record.resource, GpuInstanceResource):
            slice_ = record.resource
            key = slice_key(slice_.pci_address, slice_.profile, slice_.start)
            if host.ledger.owner(key) is None and made_in_this_boot(host, settled_handle(record)):
                mine.add(key)
    mine |= {slice_key(*place) for place in traced_slices(host, lab)}
    there = tuple(
        instance
        for instance in (gpu.nvml.instances if gpu.nvml else ())
        if slice_key(gpu.pci_address, instance.profile, instance.placement.start) not in mine
    )
    return (*there, *_missing_of_others(host, lab, gpu, {(item.profile, item.placement.start) for item in there}))


def _missing_of_others(host: GpuHost, lab: str, gpu: Gpu, there: Collection[tuple[str, int]]) -> list[GpuInstance]:
    """Places that the ledger gives to other labs and where nothing is now: a reboot took their slices, and their next
    `provision` brings them back to where they were."""
    model = _reported(gpu) or gpu.model
    profiles = {profile.name: profile for profile in model.profiles} if model else {}
    missing = []
    for address, name, start in slices_of(host, {owner for owner in host.ledger.read().values() if owner != lab}):
        profile = profiles.get(name)
        if address == gpu.pci_address and profile is not None and (name, start) not in there:
            places = [place for place in profile.placements or () if place.start == start]
            size = places[0].size if places else profile.memory_slices or 1
            missing.append(GpuInstance(name, Placement(start, size)))
    return missing


def _pinned(spec: ClusterSpec, gpus: tuple[GpuState, ...], state: State) -> tuple[str, ...]:
    """Demands that are served already and have not changed: their guests keep what they have, unless others took the
    place after a reboot."""
    wanted = {demand.id: demand for demand in demands_of(spec, gpus)}
    current = current_assignments([record.resource for record in state.resources.values()])
    taken = {gpu.id: gpu.instances for gpu in gpus}
    served = []
    for name, assignment in current.items():
        demand = wanted.get(name)
        rivals = taken.get(assignment.gpu, ())
        if assignment.placement is not None and any(assignment.placement.overlaps(item.placement) for item in rivals):
            continue
        if demand is not None and demand.whole == assignment.whole and demand.profile in (None, assignment.profile):
            served.append(name)
    return tuple(served)


def node_gpus(spec: ClusterSpec, state: State) -> NodeGpus:
    """What each node has according to the record, for inventories and probes."""
    simulated = state.facts.get(GPU_FACT) == GpuBackend.SIMULATED.value
    models = {device.id: device.model for device in spec.gpu.devices}
    counts: dict[str, Counter[str]] = {}
    for record in state.resources.values():
        resource = record.resource
        if isinstance(resource, Vgpu):
            counts.setdefault(resource.node, Counter())[resource.profile] += 1
        elif isinstance(resource, WholeGpu):
            counts.setdefault(resource.node, Counter())[_gres_type(models.get(resource.device, ""))] += 1
    return {
        node: tuple(NodeGpu(kind, count, simulated) for kind, count in sorted(kinds.items()))
        for node, kinds in counts.items()
    }


def _gres_type(model: str) -> str:
    """Slurm's type of a whole GPU: the catalogue's id, which has no blanks."""
    gpu = find_gpu(model)
    return gpu.id if gpu else "gpu"
