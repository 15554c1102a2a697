"""A lab half read: the typed values of the file with their places, where None stands for a value that was refused."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from itertools import islice

from emulator.labfile.addresses import AddressRange
from emulator.labfile.layout import (
    CPU_WORKERS,
    GPU_WORKERS,
    LOGIN_NODES,
    CloudCluster,
    ControlNode,
    GpuWorkers,
    HpcCluster,
    LabFile,
    Workers,
)
from emulator.labfile.model import (
    ClusterKind,
    GpuBackend,
    GpuDeviceSpec,
    GpuRequest,
    GpuStrategy,
    KubernetesSpec,
    Role,
    SlurmSpec,
)
from emulator.labfile.networks import AllowSpec, NetworkSpec
from emulator.labfile.read.sections import read_section
from emulator.labfile.read.view import View
from emulator.labfile.values.hostlist import MOST_NODES, expand_hostlist


@dataclass(frozen=True, slots=True)
class NetworkDraft:
    view: View
    spec: NetworkSpec

    @property
    def kind(self) -> ClusterKind:
        return self.spec.cluster

    @property
    def key(self) -> str:
        """The network's key in the file."""
        return f"{self.kind.value}_network"

    @property
    def subnet(self) -> IPv4Network | None:
        return self.view.usable("subnet", self.spec.subnet)

    @property
    def subnet_v6(self) -> IPv6Network | None:
        return self.view.usable("subnet_v6", self.spec.subnet_v6)

    @property
    def bridge(self) -> str | None:
        return self.view.usable("bridge", self.spec.bridge)

    @property
    def allow(self) -> Iterable[tuple[View, AllowSpec]]:
        return self.view.each("allow", self.spec.allow)


@dataclass(frozen=True, slots=True)
class GroupDraft:
    """Nodes of one role. A control node is a group of one."""

    view: View
    spec: ControlNode | Workers

    @property
    def role(self) -> Role:
        return self.spec.role

    @property
    def count(self) -> int | None:
        return self.view.usable("count", self.spec.count) if isinstance(self.spec, Workers) else 1

    @property
    def names(self) -> tuple[str, ...]:
        if isinstance(self.spec, ControlNode):
            return (self.spec.name,)
        return tuple(f"{self.spec.name}-{index + 1}" for index in range(self.count or 0))

    @property
    def address_view(self) -> View:
        return self.view.child("ip_range" if isinstance(self.spec, Workers) else "ip_address")

    @property
    def addresses(self) -> AddressRange | None:
        """Those that the file gives."""
        return self.spec.ip_range if isinstance(self.spec, Workers) else self.spec.ip_address

    @property
    def gpu_view(self) -> View:
        view = self.view.child("gpu")
        return view if view.present else self.view.child("gpu_enabled")

    @property
    def gpu(self) -> GpuRequest | None:
        """The request of each node; None when the nodes have no GPU, or when it was refused or contradicts itself."""
        if not isinstance(self.spec, GpuWorkers):
            return None
        view, gpu = self.view.child("gpu"), self.spec.gpu
        if view.present:
            contradiction = gpu and gpu.whole and gpu.profile
            return gpu if view.complete and not contradiction else None
        return GpuRequest() if self.view.usable("gpu_enabled", self.spec.gpu_enabled) else None


@dataclass(frozen=True, slots=True)
class PartitionDraft:
    """A partition with its host lists written out."""

    view: View
    name: str | None
    nodes: tuple[tuple[View, str], ...] = ()


@dataclass(frozen=True, slots=True)
class SlurmDraft:
    view: View
    spec: SlurmSpec
    partitions: tuple[PartitionDraft, ...]


@dataclass(frozen=True, slots=True)
class KubernetesDraft:
    view: View
    spec: KubernetesSpec

    @property
    def pod_subnet(self) -> IPv4Network | None:
        return self.view.usable("pod_subnet", self.spec.pod_subnet)

    @property
    def service_subnet(self) -> IPv4Network | None:
        return self.view.usable("service_subnet", self.spec.service_subnet)


@dataclass(frozen=True, slots=True)
class DeviceDraft:
    """One GPU; `spec` has the defaults of its place in the list, and `pci_address` is empty where there is none."""

    view: View
    spec: GpuDeviceSpec

    @property
    def id(self) -> str | None:
        return self.view.usable("id", self.spec.id)

    @property
    def model(self) -> str | None:
        return self.view.usable("model", self.spec.model)

    @property
    def allowed(self) -> Iterable[tuple[View, str]]:
        return self.view.each("allowed_mig_profiles", self.spec.allowed_mig_profiles)


@dataclass(frozen=True, slots=True)
class SliceDraft:
    """A cluster's slices: `count` None when absent or refused; `by_profile` when the file gives a mapping."""

    view: View
    count: int | None
    by_profile: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class GpuDraft:
    view: View
    backend: GpuBackend | None
    strategy: GpuStrategy | None
    devices_view: View
    devices: tuple[DeviceDraft, ...]
    mig_slices: Mapping[ClusterKind, SliceDraft]
    whole_gpus: Mapping[ClusterKind, tuple[View, int | None]]


@dataclass(frozen=True, slots=True)
class Draft:
    """The whole file. `networks` and `groups` hold what the clusters need; an absent cluster has neither."""

    root: View
    file: LabFile
    networks: Mapping[ClusterKind, NetworkDraft]
    groups: tuple[GroupDraft, ...]
    slurm: SlurmDraft | None
    kubernetes: KubernetesDraft | None
    gpu: GpuDraft

    def groups_of(self, cluster: ClusterKind) -> tuple[GroupDraft, ...]:
        return tuple(group for group in self.groups if group.role.cluster is cluster)


def read_draft(root: View) -> Draft:
    """Read every section. Values that cannot be used have been reported."""
    file = read_section(LabFile, root)
    hpc_view, cloud_view = root.child("clusters").child("hpc"), root.child("clusters").child("cloud")
    # A cluster that was refused is asked for all the same.
    hpc = file.clusters.hpc or (HpcCluster() if hpc_view.present else None)
    cloud = file.clusters.cloud or (CloudCluster() if cloud_view.present else None)
    groups = (_hpc_groups(hpc_view, hpc) if hpc else ()) + (_cloud_groups(cloud_view, cloud) if cloud else ())
    shared = root.child("global")
    networks = shared.child("networks")
    both = (file.shared.networks.hpc_network, file.shared.networks.cloud_network)
    kinds = {group.role.cluster for group in groups}
    return Draft(
        root=root,
        file=file,
        networks={
            spec.cluster: NetworkDraft(networks.child(f"{spec.cluster.value}_network"), spec)
            for spec in both
            if spec.cluster in kinds
        },
        groups=groups,
        slurm=_slurm(hpc_view.child("slurm_config"), hpc.slurm_config) if hpc else None,
        kubernetes=KubernetesDraft(cloud_view.child("kubernetes_config"), cloud.kubernetes_config) if cloud else None,
        gpu=_gpu(shared.child("gpu_allocation"), file),
    )


def _hpc_groups(view: View, hpc: HpcCluster) -> tuple[GroupDraft, ...]:
    found = [
        GroupDraft(view.child("controller"), hpc.controller),
        GroupDraft(view.child("compute_nodes"), hpc.compute_nodes),
    ]
    login = view.child("login_nodes")
    if login.present:
        found.append(GroupDraft(login, hpc.login_nodes or LOGIN_NODES))
    return tuple(found)


def _cloud_groups(view: View, cloud: CloudCluster) -> tuple[GroupDraft, ...]:
    workers = cloud.worker_nodes
    cpu, gpu = view.child("worker_nodes").child("cpu_workers"), view.child("worker_nodes").child("gpu_workers")
    found = [GroupDraft(view.child("control_plane"), cloud.control_plane)]
    if cpu.present or not gpu.present:
        found.append(GroupDraft(cpu, workers.cpu_workers or CPU_WORKERS))
    if gpu.present:
        found.append(GroupDraft(gpu, workers.gpu_workers or GPU_WORKERS))
    return tuple(found)


def _slurm(view: View, spec: SlurmSpec) -> SlurmDraft:
    listed = view.child("partitions")
    if not listed.present:
        return SlurmDraft(view, spec, tuple(PartitionDraft(listed, each.name) for each in spec.partitions))
    partitions: list[PartitionDraft] = []
    for item, each in view.each("partitions", spec.partitions):
        name = item.child("name") if item.is_map else item
        names = ((place, node) for place, text in item.each("nodes", each.nodes) for node in expand_hostlist(text))
        # More names than nodes can be are a fault that the first of them shows; the rest would only cost memory.
        partitions.append(
            PartitionDraft(name, None if name.refused else each.name, tuple(islice(names, MOST_NODES + 1)))
        )
    return SlurmDraft(view, spec, tuple(partitions))


def _gpu(view: View, file: LabFile) -> GpuDraft:
    spec = file.shared.gpu_allocation
    slices, whole = view.child("mig_slices"), view.child("whole_gpus")
    backend = view.usable("backend", spec.backend)
    demands = {kind: (slices.child(kind.value), spec.mig_slices.get(kind)) for kind in ClusterKind}
    given = frozenset(each.pci_address for each in spec.devices)
    return GpuDraft(
        view=view,
        backend=backend,
        strategy=view.usable("strategy", spec.strategy),
        devices_view=view.child("devices"),
        devices=tuple(
            _device(item, each, given, simulated=backend is GpuBackend.SIMULATED)
            for item, each in view.each("devices", spec.devices)
        ),
        mig_slices={
            kind: SliceDraft(place, demand.count if demand else None, demand.by_profile if demand else {})
            for kind, (place, demand) in demands.items()
        },
        whole_gpus={kind: (whole.child(kind.value), spec.whole_gpus.get(kind)) for kind in ClusterKind},
    )


def _device(view: View, spec: GpuDeviceSpec, given: Container[str], *, simulated: bool) -> DeviceDraft:
    """The device with the name of its place in the list, and a simulated one with an address as in a server."""
    index = int(view.path[-1])
    free = (each for number in range(0x20) if (each := f"0000:{0x41 + index:02x}:{number:02x}.0") not in given)
    address = next(free, "") if simulated and not view.child("pci_address").present else ""
    return DeviceDraft(view, replace(spec, id=spec.id or f"GPU-{index}", pci_address=spec.pci_address or address))
