"""Settings of the services that run in the clusters: Slurm and Kubernetes.

As in `emulator.labfile.model` an attribute with a `key(...)` is a key of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Annotated

from emulator.labfile.forms import PARTITION_NAME, JobTime, NodeList, PartitionName, Subnet
from emulator.labfile.key import key
from emulator.labfile.values.slurm_time import FORMS

POD_SUBNET = IPv4Network("10.244.0.0/16")
SERVICE_SUBNET = IPv4Network("10.96.0.0/12")


@dataclass(frozen=True, slots=True)
class PartitionSpec:
    """A Slurm partition. Empty `nodes` means all compute nodes, and `max_job_seconds` None the limit of all jobs.

    In the file `nodes` may hold host lists; in a `ClusterSpec` each entry is one node.
    """

    name: Annotated[PartitionName, key("Name of the partition.", required=True)] = ""
    nodes: Annotated[
        tuple[NodeList, ...],
        key(
            "Compute nodes: names, or Slurm's host lists such as hpc-compute-[1-3,7]; empty means all.",
            maxItems=1000,
            examples=[["hpc-compute-[1-3]", "hpc-compute-7"]],
        ),
    ] = ()
    max_job_seconds: Annotated[
        JobTime | None,
        key(
            "Longest run time of a job in this partition, at most that of slurm_config. Default: that of slurm_config.",
            name="max_job_time",
            computed=True,
        ),
    ] = None


Partition = Annotated[
    PartitionSpec,
    key(
        "A partition: its name, or a mapping with its nodes and limits.",
        type=["string", "object"],
        pattern=PARTITION_NAME,
        expects="a partition name such as gpu (letters, digits, '_', '-'; a letter first), or {name: gpu, nodes:"
        " [hpc-compute-1]}",
        read=PartitionSpec,
    ),
]


@dataclass(frozen=True, slots=True)
class SlurmSpec:
    """`max_job_seconds` None means UNLIMITED. In a `ClusterSpec` `default_partition` is one of `partitions`."""

    partitions: Annotated[
        tuple[Partition, ...],
        key(
            "Partitions: names, or mappings with the nodes of each. A partition without nodes has all of them.",
            minItems=1,
            maxItems=1000,
            default=["main"],
            examples=[["gpu", "debug"]],
        ),
    ] = (PartitionSpec("main"),)
    default_partition: Annotated[
        str,
        key(
            "Where jobs go that name none. Default: the first partition.",
            computed=True,
            maxLength=63,
            examples=["gpu"],
        ),
    ] = ""
    max_job_seconds: Annotated[
        JobTime | None,
        key(f"Longest run time of a job in Slurm's forms: {FORMS}.", name="max_job_time", default="UNLIMITED"),
    ] = None
    mpi: Annotated[
        str,
        key(
            "How the parts of an MPI program find each other: pmix, as Open MPI and mpi4py of the nodes' image do it,"
            " so that `srun` alone starts one; none: each user says so with --mpi. Needs Debian 13 or newer.",
            enum=["none", "pmix"],
            see="slurm.md",
        ),
    ] = "none"
    rest_api: Annotated[
        bool,
        key(
            "slurmrestd runs on the controller, for tools that read JSON: on a Unix socket, with tokens that root makes"
            " there. Needs Debian 13 or newer.",
            see="slurm.md",
        ),
    ] = False
    scrontab: Annotated[
        bool,
        key(
            "Users may have jobs started by the clock, with scrontab. Needs Debian 13 or newer.",
            see="slurm.md",
        ),
    ] = False
    priority: Annotated[
        str,
        key(
            "Which waiting job comes first: the one that was submitted first (fifo), or that of the user who has used"
            " the least of late (fairshare).",
            enum=["fifo", "fairshare"],
            see="slurm.md",
        ),
    ] = "fifo"


@dataclass(frozen=True, slots=True)
class KubernetesSpec:
    """`source`: auto, upstream, modules or bundle:PATH. `version` empty means what the source offers.

    `real_gpus` follows from the nodes and `global.gpu_allocation`: pods are to get GPUs that are not simulated.
    """

    cni: Annotated[
        str, key("Pod network: bridge is built in and works offline.", enum=["bridge", "calico", "flannel"])
    ] = "bridge"
    ingress: Annotated[
        str,
        key(
            "What serves Ingress: lab-ingress, over HTTP at port 80 of every node, with addresses for services of type"
            " LoadBalancer (source: modules); traefik, with HTTPS and Gateway API, at ports 30080 and 30443 (source:"
            " upstream).",
            # nginx was one until its project ended; a check says what takes its place.
            pattern="^(?:none|traefik|lab-ingress|nginx)$",
            expects="none, traefik or lab-ingress",
            examples=["lab-ingress"],
        ),
    ] = "none"
    helm: Annotated[
        bool,
        key("Helm next to kubectl on the nodes, for everyone who logs in there. Needs Kubernetes from modules."),
    ] = False
    storage_class: Annotated[
        str,
        key(
            "Default storage class; auto: local-path where the nodes' release has it, as that of modules does.",
            enum=["auto", "none", "local-path"],
        ),
    ] = "auto"
    metrics: Annotated[
        str,
        key(
            "What answers `kubectl top` and autoscalers; auto: metrics-server where the nodes' release has it, as that"
            " of modules does.",
            enum=["auto", "none", "metrics-server"],
        ),
    ] = "auto"
    network_policy: Annotated[
        str,
        key(
            "Policy of the namespaces that people work in: default-deny lets a pod talk to pods of its own namespace"
            " and to the cluster's DNS alone. Needs cni: calico, or cni: bridge with Kubernetes from modules.",
            enum=["none", "default-deny"],
        ),
    ] = "none"
    source: Annotated[
        str,
        key(
            "Where the binaries come from: the Kubernetes project's archive (upstream), Go modules that are compiled"
            " here (modules), an offline bundle (bundle:PATH), or what can be had (auto).",
            # debian-source was a source until 1.20 went; a check says what takes its place.
            pattern=r"^(?:auto|upstream|modules|debian-source|bundle: *[^\x00-\x20\x7f][^\x00-\x1f\x7f]{0,999})$",
            expects="auto, upstream, modules or bundle:PATH",
            examples=["auto", "bundle:/srv/k8s-1.37.bundle"],
        ),
    ] = "auto"
    version: Annotated[
        str,
        key(
            "Kubernetes version such as 1.37 or 1.37.2. Default: what the source offers.",
            maxLength=32,
            examples=["1.37"],
        ),
    ] = ""
    pod_subnet: Annotated[
        Subnet,
        key(
            "Network of the pods; each node takes a /24 of it.",
            expects="an IPv4 network such as 10.244.0.0/16",
        ),
    ] = POD_SUBNET
    service_subnet: Annotated[
        Subnet, key("Network of the services.", expects="an IPv4 network such as 10.244.0.0/16")
    ] = SERVICE_SUBNET
    mig_strategy: Annotated[
        str,
        key(
            "How the device plugin names MIG slices: mixed: nvidia.com/mig-1g.10gb; single: nvidia.com/gpu, all slices"
            " alike; none: whole GPUs only.",
            enum=["none", "single", "mixed"],
        ),
    ] = "mixed"
    taint_gpu_workers: Annotated[bool, key("Keep pods without a GPU request away from GPU workers.")] = False
    student_pods: Annotated[
        int, key("Pods that each student may have at a time.", minimum=1, maximum=1000, examples=[20])
    ] = 20
    student_node_ports: Annotated[
        int,
        key(
            "Services with a port of the nodes (NodePort) that each student may have.",
            minimum=0,
            maximum=100,
            examples=[2],
        ),
    ] = 0
    real_gpus: bool = False
