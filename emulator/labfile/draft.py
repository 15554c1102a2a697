"""A lab half read: what the file says, field by field, where None stands for a value that was refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from emulator.labfile.addresses import AddressRange
from emulator.labfile.model import (
    ClusterKind,
    GpuBackend,
    GpuRequest,
    GpuStrategy,
    HypervisorSpec,
    ImageSpec,
    Protocol,
    Role,
    SecuritySpec,
    SshSpec,
    TimeoutSpec,
)
from emulator.labfile.read.typed_view import View


@dataclass(frozen=True, slots=True)
class AllowDraft:
    """One entry of a network's `allow`; of `ports` the text as written, a number or a range."""

    view: View
    sources: tuple[tuple[View, str | None], ...]
    targets: tuple[tuple[View, str | None], ...]
    protocol: Protocol | None
    ports_view: View
    ports: tuple[tuple[View, str | None], ...]


@dataclass(frozen=True, slots=True)
class NetworkDraft:
    view: View
    kind: ClusterKind
    subnet: IPv4Network | None
    subnet_v6: IPv6Network | None
    bridge: str | None
    nat: bool | None
    allow: tuple[AllowDraft, ...]

    @property
    def key(self) -> str:
        """The network's key in the file."""
        return f"{self.kind.value}_network"


@dataclass(frozen=True, slots=True)
class GroupDraft:
    """Nodes of one role. A head is a group of one."""

    view: View
    role: Role
    count: int | None
    cpu_cores: int | None
    memory_mib: int | None
    disk_gib: int | None
    address_view: View
    addresses: AddressRange | None
    gpu: GpuRequest | None
    gpu_view: View

    @property
    def names(self) -> tuple[str, ...]:
        if self.role.is_head:
            return (self.role.value,)
        return tuple(f"{self.role.value}-{index + 1}" for index in range(self.count or 0))


@dataclass(frozen=True, slots=True)
class PartitionDraft:
    view: View
    name: str | None
    nodes: tuple[tuple[View, str | None], ...]


@dataclass(frozen=True, slots=True)
class SlurmDraft:
    view: View
    partitions: tuple[PartitionDraft, ...]
    default_partition: str | None
    max_job_time: str | None


@dataclass(frozen=True, slots=True)
class KubernetesDraft:
    view: View
    cni: str | None
    ingress: str | None
    storage_class: str | None
    network_policy: str | None
    source: str | None
    version: str | None
    pod_subnet: IPv4Network | None
    service_subnet: IPv4Network | None
    mig_strategy: str | None
    taint_gpu_workers: bool | None


@dataclass(frozen=True, slots=True)
class DeviceDraft:
    """One GPU. `pci_address` is normalised to `dddd:bb:dd.f` in small letters."""

    view: View
    id: str | None
    pci_address: str | None
    model: str | None
    mig_capable: bool | None
    allowed: tuple[tuple[View, str | None], ...]


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
    name: str | None
    description: str | None
    networks: Mapping[ClusterKind, NetworkDraft]
    groups: tuple[GroupDraft, ...]
    slurm: SlurmDraft | None
    kubernetes: KubernetesDraft | None
    gpu: GpuDraft
    hypervisor: HypervisorSpec
    images: ImageSpec
    ssh: SshSpec
    timeouts: TimeoutSpec
    security: SecuritySpec

    def groups_of(self, cluster: ClusterKind) -> tuple[GroupDraft, ...]:
        return tuple(group for group in self.groups if group.role.cluster is cluster)
