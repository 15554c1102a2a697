"""Which node gets which slice or GPU, from a lab file and its GPUs. Pure.

A node that names no profile gets a slice with `strategy: mig` and a GPU with `whole`. With `hybrid` it gets a slice
while its cluster's share of slices lasts and a GPU after that, or a GPU at once if no GPU can be partitioned. In the
order of the nodes such a slice has a profile that `mig_slices` sets aside and no node has named; when these are used
up, the GPU's smallest allowed profile. Slices that no node asks for are not created.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from emulator.core.errors import ConfigError
from emulator.gpu.catalog import close_names, find_gpu
from emulator.gpu.model import GpuInstance, GpuModel
from emulator.gpu.placement.demand import Assignment, Demand, GpuState, GpuUse, Infeasible, Solution
from emulator.gpu.placement.explain import solve
from emulator.labfile.model import (
    ClusterKind,
    ClusterSpec,
    GpuAllocationSpec,
    GpuDeviceSpec,
    GpuStrategy,
    NodeSpec,
)


@dataclass(frozen=True, slots=True)
class GpuAllocation:
    """Slices and GPUs of each GPU node, in the order of the spec. `notes` are sentences for the user."""

    nodes: Mapping[str, tuple[Assignment, ...]]
    solution: Solution
    gpus: tuple[GpuState, ...]
    notes: tuple[str, ...] = field(default=())


def gpu_states(
    gpu: GpuAllocationSpec,
    *,
    models: Mapping[str, GpuModel] | None = None,
    instances: Mapping[str, Sequence[GpuInstance]] | None = None,
) -> tuple[GpuState, ...]:
    """The file's GPUs as the solver takes them.

    Args:
        models: models that NVML reported, by device id; the catalogue supplies the others.
        instances: GPU instances that must stay, by device id.

    Raises:
        ConfigError: a GPU to be partitioned is unknown to both.
    """
    return tuple(
        GpuState(
            id=device.id,
            model=(models or {}).get(device.id) or _model(device),
            instances=tuple((instances or {}).get(device.id, ())),
            allowed=device.allowed_mig_profiles,
            use=_use(gpu.strategy, device),
        )
        for device in gpu.devices
    )


def _use(strategy: GpuStrategy, device: GpuDeviceSpec) -> GpuUse:
    if strategy is GpuStrategy.WHOLE or not device.mig_capable:
        return GpuUse.WHOLE
    return GpuUse.SLICES if strategy is GpuStrategy.MIG else GpuUse.ANY


def _model(device: GpuDeviceSpec) -> GpuModel:
    found = find_gpu(device.model)
    if found is not None:
        return found
    if not device.mig_capable:  # a GPU that is passed through whole needs no known model
        return GpuModel(device.model, (device.model,), (), architecture="", mig_capable=False)
    close = ", ".join(close_names(device.model))
    raise ConfigError(
        f"the GPU catalogue has no single GPU called {device.model!r}",
        where=device.id,
        fix=f"write one of: {close}" if close else "see `hyperscaler gpu discover` for the names of this host's GPUs",
    )


def allocate(
    spec: ClusterSpec,
    gpus: Sequence[GpuState] | None = None,
    current: Mapping[str, Assignment] | None = None,
    *,
    pinned: Collection[str] = (),
) -> GpuAllocation | Infeasible:
    """Give every GPU node of both clusters its slices and GPUs, or raise with the reasons.

    Args:
        gpus: `gpu_states(spec.gpu)` when left out.
        current: where demands are now, by demand id (`<node>/<number from 0>`); as few as possible move.
        pinned: demands whose guests run, which must not move.

    Raises:
        ConfigError: see `gpu_states`; or Kubernetes nodes got slices that `mig_strategy` cannot offer to pods.
    """
    states = tuple(gpu_states(spec.gpu) if gpus is None else gpus)
    demands = demands_of(spec, states)
    ours = {demand.id for demand in demands}
    answer = solve(states, demands, current=current, pinned=[name for name in pinned if name in ours])
    if isinstance(answer, Infeasible):
        return answer
    nodes: dict[str, list[Assignment]] = {node.name: [] for node in spec.nodes if node.gpu}
    for assignment in answer.assignments:
        nodes[node_of(assignment.demand)].append(assignment)
    _require_strategy(spec, nodes)
    notes = (*_idle_notes(spec, demands), *_pair_notes(nodes))
    return GpuAllocation({name: tuple(found) for name, found in nodes.items()}, answer, states, notes)


def _require_strategy(spec: ClusterSpec, nodes: Mapping[str, Sequence[Assignment]]) -> None:
    """Check the chosen profiles of nodes that name none; named profiles were checked with the file."""
    strategy = spec.kubernetes.mig_strategy if spec.kubernetes else ""
    cloud = [item for node in spec.nodes_of(ClusterKind.CLOUD) for item in nodes.get(node.name, ())]
    profiles = sorted({item.profile for item in cloud if item.profile is not None})
    if strategy == "none" and profiles:
        why = f"`none` offers no slices to pods, but the nodes get {', '.join(profiles)}"
    elif strategy == "single" and len(profiles) > 1:
        why = f"`single` needs slices of one profile, but the nodes get {', '.join(profiles)}"
    else:
        return
    raise ConfigError(why, where="clusters.cloud.kubernetes_config.mig_strategy", fix="write `mig_strategy: mixed`")


def node_of(demand: str) -> str:
    """The node of a demand id."""
    return demand.rpartition("/")[0]


def demands_of(spec: ClusterSpec, gpus: Sequence[GpuState]) -> tuple[Demand, ...]:
    """One demand for each slice or GPU of each node; see the module for nodes that name no profile."""
    cuttable = any(gpu.use is not GpuUse.WHOLE and gpu.model.mig_capable for gpu in gpus)
    demands: list[Demand] = []
    for cluster in spec.clusters:
        pool = _Pool(spec, cluster, cuttable=cuttable)
        for node in spec.nodes_of(cluster):
            demands += [pool.demand(node, number) for number in range(node.gpu.count if node.gpu else 0)]
    return tuple(demands)


class _Pool:
    """Slices that one cluster still has for nodes that leave the choice to the strategy."""

    def __init__(self, spec: ClusterSpec, cluster: ClusterKind, *, cuttable: bool) -> None:
        requests = [node.gpu for node in spec.nodes_of(cluster) if node.gpu]
        named = Counter[str]()
        for request in requests:
            if request.profile:
                named[request.profile] += request.count
        share = spec.gpu.mig_slices.get(cluster)
        by_profile = share.by_profile if share else {}
        self._named_ahead = [name for name, count in by_profile.items() for _ in range(count - named[name])]
        # A share in the file limits the slices for unnamed requests; without one there is no limit.
        self._slices = share.count - named.total() if share and share.count else None
        strategy = spec.gpu.strategy
        gpus_set_aside = spec.gpu.whole_gpus.get(cluster, 0)
        self._whole_only = strategy is GpuStrategy.WHOLE or (strategy is GpuStrategy.HYBRID and not cuttable)
        self._whole_after = strategy is GpuStrategy.HYBRID and gpus_set_aside > 0

    def demand(self, node: NodeSpec, number: int) -> Demand:
        name = f"{node.name}/{number}"
        request = node.gpu
        if request is None or request.whole:
            return Demand(name, whole=True)
        if request.profile:
            return Demand(name, request.profile)
        if self._whole_only or (self._whole_after and not self._slices):
            return Demand(name, whole=True)
        if self._slices:
            self._slices -= 1
        return Demand(name, self._named_ahead.pop(0) if self._named_ahead else None)


def _idle_notes(spec: ClusterSpec, demands: Sequence[Demand]) -> list[str]:
    clusters = {node.name: node.role.cluster for node in spec.nodes}
    asked = Counter(clusters[node_of(demand.id)] for demand in demands if not demand.whole)
    notes = []
    for cluster, share in spec.gpu.mig_slices.items():
        idle = share.count - asked[cluster]
        if idle > 0:
            notes.append(f"no node asks for {idle} of the {share.count} slices set aside for {cluster.value}")
    return notes


def _pair_notes(nodes: Mapping[str, Sequence[Assignment]]) -> list[str]:
    notes = []
    for name, found in nodes.items():
        for gpu, number in Counter(item.gpu for item in found if not item.whole).items():
            if number > 1:
                notes.append(
                    f"{name} gets {number} slices of {gpu}; many drivers refuse two vGPUs of one GPU in one guest"
                )
    return notes
