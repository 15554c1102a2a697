"""How the lab file is laid out: its sections, each of which holds the keys of a class or further sections.

What the values mean is in `emulator.labfile.model`; classes that are here stand in the file alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Annotated

from emulator.labfile.forms import Address, Addresses
from emulator.labfile.key import key
from emulator.labfile.model import (
    ClusterKind,
    GpuAllocationSpec,
    GpuRequest,
    KubernetesSpec,
    NodeSettings,
    Role,
    SlurmSpec,
)
from emulator.labfile.networks import NetworkSpec
from emulator.labfile.settings import Settings


@dataclass(frozen=True, slots=True)
class Metadata:
    name: Annotated[
        str,
        key(
            "Name of the lab: prefix of everything it makes on the host (domains, volumes, networks, directories).",
            required=True,
            pattern="^[a-z0-9](?:[a-z0-9-]{0,28}[a-z0-9])?$",
            expects="a name of at most 30 lower-case letters, digits and '-', with '-' only inside",
            examples=["demo"],
        ),
    ] = ""
    description: Annotated[str, key("Free text.", maxLength=1000)] = ""


_HPC_NETWORK = NetworkSpec(ClusterKind.HPC, IPv4Network("192.168.100.0/24"), "virbr100")
_CLOUD_NETWORK = NetworkSpec(ClusterKind.CLOUD, IPv4Network("192.168.200.0/24"), "virbr200")


@dataclass(frozen=True, slots=True)
class Networks:
    hpc_network: Annotated[NetworkSpec, key("Network of the Slurm cluster.")] = _HPC_NETWORK
    cloud_network: Annotated[NetworkSpec, key("Network of the Kubernetes cluster.")] = _CLOUD_NETWORK


@dataclass(frozen=True, slots=True)
class Shared:
    """`global`."""

    networks: Annotated[
        Networks, key("One network for each cluster, isolated by the host's packet filter.", see="networks.md")
    ] = field(default_factory=Networks)
    gpu_allocation: Annotated[
        GpuAllocationSpec, key("The GPUs that the lab may use, and each cluster's share of them.")
    ] = field(default_factory=GpuAllocationSpec)


@dataclass(frozen=True, slots=True)
class ControlNode(NodeSettings):
    """The one node with a cluster's control services."""

    ip_address: Annotated[
        Address | None,
        key(
            "Address of the node. Default: the tenth address of the subnet (.10); in subnets below 32 addresses the"
            " second."
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Workers(NodeSettings):
    """Nodes of one kind without GPUs."""

    count: Annotated[int, key("How many nodes of this kind.", minimum=0, maximum=1000)] = 1
    ip_range: Annotated[
        Addresses | None,
        key(
            "Addresses of the nodes, given in order. Default: the first free addresses after the control node's; GPU"
            " workers and login nodes start in the upper half of the subnet's first 256 addresses, so that adding"
            " other nodes does not move them."
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class GpuWorkers(Workers):
    """Nodes of one kind that may have GPUs."""

    gpu_enabled: Annotated[
        bool, key("Whether each of these nodes gets a GPU slice or a whole GPU from global.gpu_allocation.")
    ] = False
    gpu: Annotated[
        GpuRequest | None,
        key(
            "What each of these nodes gets: slices of a named profile, or a whole GPU. Left out, the planner chooses"
            " from the cluster's share. Its presence sets gpu_enabled.",
            minProperties=1,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class ComputeNodes(GpuWorkers):
    """The nodes of the Slurm cluster that run jobs, of which there is at least one."""

    count: Annotated[int, key("How many nodes of this kind.", minimum=1, maximum=1000)] = 1


LOGIN_NODES = Workers("hpc-login", Role.HPC_LOGIN, 2, 1024, 20)


@dataclass(frozen=True, slots=True)
class HpcCluster:
    controller: Annotated[ControlNode, key("The node that runs slurmctld, slurmdbd and the accounting database.")] = (
        ControlNode("hpc-controller", Role.HPC_CONTROLLER, 2, 2048, 20)
    )
    compute_nodes: Annotated[ComputeNodes, key("The nodes that run jobs. Left out: one node.")] = ComputeNodes(
        "hpc-compute", Role.HPC_COMPUTE, 2, 2048, 20
    )
    login_nodes: Annotated[
        Workers | None,
        key(
            "The nodes that students log in to, with Slurm's commands and none of its services. Left out: none, and"
            " students log in to the controller.",
            start=LOGIN_NODES,
            see="slurm.md",
        ),
    ] = None
    slurm_config: Annotated[SlurmSpec, key("Slurm's settings.")] = field(default_factory=SlurmSpec)


CPU_WORKERS = Workers("cloud-cpu-worker", Role.CLOUD_CPU_WORKER, 2, 2048, 20)
GPU_WORKERS = GpuWorkers("cloud-gpu-worker", Role.CLOUD_GPU_WORKER, 2, 4096, 40, gpu_enabled=True)


@dataclass(frozen=True, slots=True)
class WorkerNodes:
    cpu_workers: Annotated[
        Workers | None,
        key(
            "Workers without GPUs, of 0.5 GiB of memory at least. Left out: none, if there are GPU workers.",
            start=CPU_WORKERS,
        ),
    ] = None
    gpu_workers: Annotated[
        GpuWorkers | None,
        key(
            "Workers with GPUs, of 0.5 GiB of memory at least. Left out: none.",
            start=GPU_WORKERS,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class CloudCluster:
    control_plane: Annotated[
        ControlNode,
        key(
            "The node that runs the API server, the scheduler and etcd. kubeadm asks for 2 cores and 1.75 GiB. No"
            " Kubernetes node has less than 3 GiB of disk."
        ),
    ] = ControlNode("cloud-control-plane", Role.CLOUD_CONTROL_PLANE, 2, 2048, 20)
    worker_nodes: Annotated[WorkerNodes, key("The nodes that run pods. Left out: one CPU worker.")] = field(
        default_factory=WorkerNodes
    )
    kubernetes_config: Annotated[KubernetesSpec, key("Kubernetes' settings.")] = field(default_factory=KubernetesSpec)


@dataclass(frozen=True, slots=True)
class Clusters:
    hpc: Annotated[HpcCluster | None, key("The Slurm cluster.")] = None
    cloud: Annotated[CloudCluster | None, key("The Kubernetes cluster.")] = None


@dataclass(frozen=True, kw_only=True)
class Topics:
    """The sections on top of the file, from which the lab is made."""

    version: Annotated[str, key("Version of this file format.", required=True, enum=["1.0"], examples=["1.0"])] = "1.0"
    metadata: Annotated[Metadata, key("Name and description of the lab.", required=True)] = field(
        default_factory=Metadata
    )
    shared: Annotated[Shared, key("What both clusters share.", name="global")] = field(default_factory=Shared)
    clusters: Annotated[Clusters, key("The clusters; either may be absent.", required=True, minProperties=1)] = field(
        default_factory=Clusters
    )


@dataclass(frozen=True, kw_only=True)
class LabFile(Settings, Topics):
    """The file as a whole, with the defaults of what it leaves out: first its topics, then the settings."""
