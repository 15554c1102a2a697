"""What a lab file asks for, as frozen types. Nothing here touches the world.

Nodes of both clusters are the same type; their `Role` says which cluster they serve. What one cluster alone
needs (Slurm partitions, a CNI) is in `SlurmSpec` and `KubernetesSpec`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

POD_SUBNET = IPv4Network("10.244.0.0/16")
SERVICE_SUBNET = IPv4Network("10.96.0.0/12")


class ClusterKind(StrEnum):
    """The two clusters of a lab, by their keys in the file."""

    HPC = "hpc"
    CLOUD = "cloud"


class Role(StrEnum):
    """What a node is for. The value is the prefix of the node's name."""

    HPC_CONTROLLER = "hpc-controller"
    HPC_COMPUTE = "hpc-compute"
    CLOUD_CONTROL_PLANE = "cloud-control-plane"
    CLOUD_CPU_WORKER = "cloud-cpu-worker"
    CLOUD_GPU_WORKER = "cloud-gpu-worker"

    @property
    def cluster(self) -> ClusterKind:
        return ClusterKind.HPC if self.value.startswith("hpc-") else ClusterKind.CLOUD

    @property
    def is_head(self) -> bool:
        """Whether the node runs its cluster's control services."""
        return self in (Role.HPC_CONTROLLER, Role.CLOUD_CONTROL_PLANE)


class Acceleration(StrEnum):
    AUTO = "auto"
    KVM = "kvm"
    TCG = "tcg"


class GpuStrategy(StrEnum):
    MIG = "mig"
    WHOLE = "whole"
    HYBRID = "hybrid"


class GpuBackend(StrEnum):
    AUTO = "auto"
    NVML = "nvml"
    SIMULATED = "simulated"


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"


@dataclass(frozen=True, slots=True)
class AllowSpec:
    """What nodes of one network may begin towards nodes of the other; answers always pass.

    `sources` and `targets` are names of nodes, empty for all of them. `ports` are numbers and ranges (`8000-8100`)
    in ascending order without overlaps; with ICMP, which means echo requests, there are none.
    """

    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    protocol: Protocol = Protocol.TCP
    ports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One isolated network; the first usable address of `subnet` is the gateway, held by the host's bridge.

    `allow` lists what its nodes may reach in the other cluster's network, `nat_private` the private ranges that they
    may reach through the host when `nat` is on. `subnet_v6`, a /64, is None where nothing
    passes in IPv6.
    """

    cluster: ClusterKind
    subnet: IPv4Network
    bridge: str
    nat: bool = False
    allow: tuple[AllowSpec, ...] = ()
    subnet_v6: IPv6Network | None = None
    nat_private: tuple[IPv4Network | IPv6Network, ...] = ()

    @property
    def gateway(self) -> IPv4Address:
        return self.subnet.network_address + 1

    @property
    def gateway_v6(self) -> IPv6Address | None:
        return self.address_v6(self.gateway)

    def address_v6(self, address: IPv4Address) -> IPv6Address | None:
        """The IPv6 address of whoever has this one of `subnet`: the same place in `subnet_v6`."""
        if self.subnet_v6 is None:
            return None
        return self.subnet_v6.network_address + (int(address) - int(self.subnet.network_address))


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """What one node wants: `count` slices of `profile`, or whole GPUs.

    `profile` None leaves the profile to the planner (strategy mig or hybrid); `whole` asks for whole GPUs.
    """

    count: int = 1
    profile: str | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One virtual machine.

    `name` is also the host name in the guest (`hpc-compute-1`); the domain is called `<lab>-<name>`.
    """

    name: str
    role: Role
    cpu_cores: int
    memory_mib: int
    disk_gib: int
    ip: IPv4Address
    gpu: GpuRequest | None = None


@dataclass(frozen=True, slots=True)
class GpuDeviceSpec:
    """A GPU that the lab may use. An empty `allowed_mig_profiles` allows every profile of the GPU."""

    id: str
    pci_address: str
    model: str
    mig_capable: bool
    allowed_mig_profiles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SliceDemand:
    """Slices set aside for one cluster: `count` in all, of which `by_profile` says what is fixed by name.

    The file gives either a number (`hpc: 4`, profiles left to the nodes and the planner) or a mapping
    (`hpc: {1g.10gb: 4}`, then `count` is the sum).
    """

    count: int = 0
    by_profile: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GpuAllocationSpec:
    """`global.gpu_allocation`. Absent from the file means no GPUs: `devices` is empty."""

    backend: GpuBackend = GpuBackend.AUTO
    strategy: GpuStrategy = GpuStrategy.MIG
    devices: tuple[GpuDeviceSpec, ...] = ()
    mig_slices: Mapping[ClusterKind, SliceDemand] = field(default_factory=dict)
    whole_gpus: Mapping[ClusterKind, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """A Slurm partition. Empty `nodes` means all compute nodes."""

    name: str
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SlurmSpec:
    """`max_job_seconds` None means UNLIMITED."""

    partitions: tuple[PartitionSpec, ...]
    default_partition: str
    max_job_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class KubernetesSpec:
    """`source`: auto, upstream, debian-source or bundle:PATH. `version` empty means what the source offers.

    `real_gpus` follows from the nodes and `global.gpu_allocation`: pods are to get GPUs that are not simulated.
    """

    cni: str = "bridge"
    ingress: str = "none"
    storage_class: str = "none"
    network_policy: str = "none"
    source: str = "auto"
    version: str = ""
    pod_subnet: IPv4Network = POD_SUBNET
    service_subnet: IPv4Network = SERVICE_SUBNET
    mig_strategy: str = "mixed"
    taint_gpu_workers: bool = False
    real_gpus: bool = False


@dataclass(frozen=True, slots=True)
class HypervisorSpec:
    """`uri`: auto, embedded or a libvirt URI. `cpu_overcommit`: guest cores per host core before a warning."""

    uri: str = "auto"
    acceleration: Acceleration = Acceleration.AUTO
    cpu_overcommit: float = 4.0


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """Golden images by cluster; a name is resolved in the image store, `hpc-base` and `cloud-base` being built in."""

    hpc: str = "hpc-base"
    cloud: str = "cloud-base"


ADMIN = "labadmin"
"""The account that the images have for the tool and the lab's owner: ssh with the lab's key, root through sudo."""


@dataclass(frozen=True, slots=True)
class SshSpec:
    """`user` is the admin account in the guests."""

    user: str = ADMIN


@dataclass(frozen=True, slots=True)
class SecuritySpec:
    """What of the security baseline the lab file decides. `apt_sources` are lines as in apt's sources.list."""

    unattended_upgrades: bool = False
    apt_sources: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeoutSpec:
    """Upper bounds in seconds; under TCG everything takes longer, so the defaults are generous."""

    boot: int = 600
    configure: int = 1800
    verify: int = 300
    drain: int = 180
    shutdown: int = 120
    lock: int = 60


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """A whole lab. `nodes` are in a fixed order: hpc head, hpc compute, cloud head, cpu workers, gpu workers."""

    name: str
    description: str
    nodes: tuple[NodeSpec, ...]
    networks: Mapping[ClusterKind, NetworkSpec]
    slurm: SlurmSpec | None = None
    kubernetes: KubernetesSpec | None = None
    gpu: GpuAllocationSpec = field(default_factory=GpuAllocationSpec)
    hypervisor: HypervisorSpec = field(default_factory=HypervisorSpec)
    images: ImageSpec = field(default_factory=ImageSpec)
    ssh: SshSpec = field(default_factory=SshSpec)
    timeouts: TimeoutSpec = field(default_factory=TimeoutSpec)
    security: SecuritySpec = field(default_factory=SecuritySpec)
    source: Path | None = None

    def nodes_of(self, cluster: ClusterKind) -> tuple[NodeSpec, ...]:
        return tuple(node for node in self.nodes if node.role.cluster is cluster)

    @property
    def clusters(self) -> tuple[ClusterKind, ...]:
        """The clusters that the file asks for, hpc first."""
        return tuple(kind for kind in ClusterKind if self.nodes_of(kind))


# What a thin disk grows to once a lean guest has booted and been configured, GiB for each node.
FOOTPRINT_GIB = 2
