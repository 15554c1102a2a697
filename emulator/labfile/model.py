"""What a lab file asks for, as frozen types. Nothing here touches the host.

Nodes of both clusters are the same type; their `Role` says which cluster they serve. What one cluster alone
needs (Slurm partitions, a CNI) is in `SlurmSpec` and `KubernetesSpec`.

An attribute with a `key(...)` is a key of the file: its definition is here and nowhere else (`emulator.labfile.key`).
`emulator.labfile.layout` says which section stands where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated

from emulator.labfile.forms import (
    PROFILE,
    Memory,
    PciAddress,
    Profile,
)
from emulator.labfile.key import key
from emulator.labfile.networks import CLUSTER_NAMES as CLUSTER_NAMES
from emulator.labfile.networks import ClusterKind as ClusterKind
from emulator.labfile.networks import NetworkSpec
from emulator.labfile.services import POD_SUBNET as POD_SUBNET
from emulator.labfile.services import SERVICE_SUBNET as SERVICE_SUBNET
from emulator.labfile.services import KubernetesSpec as KubernetesSpec
from emulator.labfile.services import PartitionSpec as PartitionSpec
from emulator.labfile.services import SlurmSpec as SlurmSpec
from emulator.labfile.settings import ADMIN as ADMIN
from emulator.labfile.settings import Acceleration as Acceleration
from emulator.labfile.settings import HypervisorSpec as HypervisorSpec
from emulator.labfile.settings import ImageSpec as ImageSpec
from emulator.labfile.settings import SecuritySpec as SecuritySpec
from emulator.labfile.settings import Settings
from emulator.labfile.settings import SshSpec as SshSpec
from emulator.labfile.settings import TimeoutSpec as TimeoutSpec

# QEMU's machine type q35 has at most 288 virtual CPUs, and above 255 it needs an IOMMU that remaps interrupts.
MOST_CORES = 255


class Role(StrEnum):
    """What a node is for. The value is the prefix of the node's name."""

    HPC_CONTROLLER = "hpc-controller"
    HPC_COMPUTE = "hpc-compute"
    HPC_LOGIN = "hpc-login"
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


class GpuStrategy(StrEnum):
    MIG = "mig"
    WHOLE = "whole"
    HYBRID = "hybrid"


class GpuBackend(StrEnum):
    AUTO = "auto"
    NVML = "nvml"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """What one node wants: `count` slices of `profile`, or whole GPUs.

    `profile` None leaves the profile to the planner (strategy mig or hybrid); `whole` asks for whole GPUs.
    """

    count: Annotated[int, key("Slices, or whole GPUs, for each node.", minimum=1, maximum=16)] = 1
    profile: Annotated[Profile | None, key()] = None
    whole: Annotated[bool, key("Whole GPUs in place of slices.")] = False


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """The settings that a node shares with its group in the file. `name` is the node's or the group's."""

    name: str
    role: Role
    cpu_cores: Annotated[
        int,
        key(
            "Virtual CPU cores of each node. A virtual machine (QEMU's q35) has at most 288, and more than 255 take an"
            " IOMMU that remaps interrupts, which nodes do not have.",
            minimum=1,
            maximum=MOST_CORES,
            expects=f"a whole number from 1 to {MOST_CORES}, the most that a virtual machine can have",
            examples=[2, 8],
        ),
    ]
    memory_mib: Annotated[Memory, key("Memory of each node in GiB, in steps of 0.25.", name="memory_gb")]
    disk_gib: Annotated[
        int,
        key(
            "Disk of each node in GiB. Disks are thin: space is used as it is written.",
            name="disk_gb",
            minimum=2,
            maximum=65536,
            examples=[20, 200],
        ),
    ]


@dataclass(frozen=True, slots=True)
class NodeSpec(NodeSettings):
    """One virtual machine.

    `name` is also the host name in the guest (`hpc-compute-1`); the domain is called `<lab>-<name>`.
    """

    ip: IPv4Address
    gpu: GpuRequest | None = None


@dataclass(frozen=True, slots=True)
class GpuDeviceSpec:
    """A GPU that the lab may use. An empty `allowed_mig_profiles` allows every profile of the GPU.

    In a `ClusterSpec` nothing is left open: `id` and `pci_address` are given, and `mig_capable` is not None.
    """

    id: Annotated[
        str,
        key(
            "Your name for the GPU. Default: GPU-0, GPU-1, ... in the order of the list.",
            computed=True,
            pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
            expects="a short name such as GPU-0",
            examples=["GPU-0"],
        ),
    ] = ""
    pci_address: Annotated[
        PciAddress,
        key(
            "Where the GPU sits, as lspci -D or nvidia-smi print it. Only a simulated GPU may leave it out.",
            computed=True,
        ),
    ] = ""
    model: Annotated[
        str,
        key(
            "Product name, as nvidia-smi -L prints it or short.",
            required=True,
            minLength=1,
            maxLength=100,
            examples=["NVIDIA A100-SXM4-80GB", "NVIDIA RTX 6000 Ada Generation"],
        ),
    ] = ""
    mig_capable: Annotated[
        bool | None, key("Whether the GPU can be cut into MIG slices. Default: what the product can.")
    ] = None
    allowed_mig_profiles: Annotated[
        tuple[Profile, ...],
        key(
            "Profiles that the lab may create on this GPU; empty allows all of them.",
            maxItems=64,
            examples=[["1g.10gb", "2g.20gb", "3g.40gb"]],
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class SliceDemand:
    """Slices set aside for one cluster: `count` in all, and those fixed by name in `by_profile`.

    The file gives either a number (`hpc: 4`, profiles left to the nodes and the planner) or a mapping
    (`hpc: {1g.10gb: 4}`, then `count` is the sum).
    """

    count: int = 0
    by_profile: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, value: float | Mapping[str, float]) -> SliceDemand:
        """The demand that the file writes as a number, or as counts by profile."""
        if not isinstance(value, Mapping):
            return cls(int(value))
        counts = {profile: int(count) for profile, count in value.items()}
        return cls(sum(counts.values()), counts)


Slices = Annotated[
    SliceDemand,
    key(
        "Slices set aside for the cluster: a number, or a count by profile. Default: what its GPU-enabled nodes ask"
        " for.",
        type=["integer", "object"],
        minimum=0,
        maximum=1000,
        maxProperties=32,
        default=0,
        propertyNames={"pattern": PROFILE, "x-expects": "a MIG profile such as 1g.10gb"},
        additionalProperties={"type": "integer", "minimum": 0, "maximum": 1000},
        examples=[4, {"1g.10gb": 4}],
        read=SliceDemand.of,
    ),
]
GpuCount = Annotated[
    int,
    key(
        "Whole GPUs set aside for the cluster. Default: what its GPU-enabled nodes ask for.",
        minimum=0,
        maximum=64,
        default=0,
    ),
]


@dataclass(frozen=True, slots=True)
class GpuAllocationSpec:
    """`global.gpu_allocation`. Absent from the file means no GPUs: `devices` is empty.

    `mig_slices` and `whole_gpus` hold the shares that the file gives; in a `ClusterSpec` there is one for each cluster.
    """

    backend: Annotated[
        GpuBackend,
        key(
            "Where GPUs come from: the NVIDIA driver (nvml), a simulation for labs without hardware (simulated), or"
            " the driver where there is one (auto)."
        ),
    ] = GpuBackend.AUTO
    strategy: Annotated[GpuStrategy, key("mig: slices only; whole: whole GPUs only; hybrid: both.")] = GpuStrategy.MIG
    devices: Annotated[tuple[Annotated[GpuDeviceSpec, key("One GPU.")], ...], key("The GPUs.", maxItems=64)] = ()
    mig_slices: Annotated[Mapping[ClusterKind, Slices], key("MIG slices by cluster.")] = field(default_factory=dict)
    whole_gpus: Annotated[Mapping[ClusterKind, GpuCount], key("Whole GPUs by cluster.")] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterSpec(Settings):
    """A whole lab. `nodes` are in a fixed order: hpc head, compute and login, cloud head, cpu workers, gpu workers."""

    name: str
    description: str
    nodes: tuple[NodeSpec, ...]
    networks: Mapping[ClusterKind, NetworkSpec]
    slurm: SlurmSpec | None = None
    kubernetes: KubernetesSpec | None = None
    gpu: GpuAllocationSpec = field(default_factory=GpuAllocationSpec)
    source: Path | None = None

    def nodes_of(self, cluster: ClusterKind) -> tuple[NodeSpec, ...]:
        return tuple(node for node in self.nodes if node.role.cluster is cluster)

    @property
    def entrances(self) -> tuple[NodeSpec, ...]:
        """Where ordinary users log in: each cluster's login nodes or, without any, its head."""
        found: list[NodeSpec] = []
        for kind in ClusterKind:
            nodes = self.nodes_of(kind)
            found += [node for node in nodes if node.role is Role.HPC_LOGIN] or [n for n in nodes if n.role.is_head]
        return tuple(found)

    @property
    def clusters(self) -> tuple[ClusterKind, ...]:
        """The clusters that the file asks for, hpc first."""
        return tuple(kind for kind in ClusterKind if self.nodes_of(kind))


# What a thin disk grows to once a lean guest has booted and been configured, GiB for each node.
FOOTPRINT_GIB = 2
