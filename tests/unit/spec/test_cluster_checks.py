"""Slurm's and Kubernetes' own checks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emulator.spec.model import ClusterSpec, PartitionSpec
from emulator.spec.times import parse_slurm_time

Judge = Callable[[str], list[str]]
Load = Callable[[str], ClusterSpec]

HEAD = 'version: "1.0"\nmetadata: {name: x}\n'


def slurm(settings: str) -> str:
    return f"{HEAD}clusters:\n  hpc:\n    compute_nodes: {{count: 2}}\n    slurm_config: {{{settings}}}\n"


def kube(settings: str = "", *, head: str = "", workers: str = "") -> str:
    return (
        f"{HEAD}clusters:\n  cloud:\n    control_plane: {{{head}}}\n    worker_nodes: {{{workers}}}\n"
        f"    kubernetes_config: {{{settings}}}\n"
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("90:00", 5400),
        ("24:00:00", 86400),
        ("100:00:01", 360001),
        ("1-0", 86400),
        ("7-12", 648000),
        ("1-02:03", 93780),
        ("1-02:03:04", 93784),
        ("UNLIMITED", None),
        ("infinite", None),
    ],
)
def test_times(text: str, seconds: int | None) -> None:
    assert parse_slurm_time(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1:2:3:4", "0", "0:00", "24:61:00", "1-25", "1-", "-5", "1.5", "１"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_slurm_time(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            slurm("partitions: [gpu, debug], default_partition: gpus"),
            [
                "6:65: error: clusters.hpc.slurm_config.default_partition: 'gpus' is not one of the partitions"
                " (gpu, debug) | did you mean 'gpu'?"
            ],
        ),
        (
            slurm("partitions: [gpu, debug, gpu]"),
            [
                "6:45: error: clusters.hpc.slurm_config.partitions[2]: the partition 'gpu' is already given by"
                " clusters.hpc.slurm_config.partitions[0] | keep one"
            ],
        ),
        (
            slurm("partitions: [Default]"),
            [
                "6:33: error: clusters.hpc.slurm_config.partitions[0]: 'Default' is a reserved word in slurm.conf"
                " | choose another name"
            ],
        ),
        (
            slurm("partitions: [{name: a, nodes: [hpc-compute-2, hpc-compute-3]}]"),
            [
                "6:66: error: clusters.hpc.slurm_config.partitions[0].nodes[1]: 'hpc-compute-3' is not a compute node"
                " (hpc-compute-1 to hpc-compute-2) | did you mean 'hpc-compute-2'?"
            ],
        ),
        (
            slurm("partitions: [{name: a, nodes: [hpc-compute-1, hpc-compute-1]}]"),
            [
                "6:66: error: clusters.hpc.slurm_config.partitions[0].nodes[1]: the node 'hpc-compute-1' is listed"
                " twice | keep one"
            ],
        ),
        (
            slurm("max_job_time: 24:61:00"),
            [
                "6:34: error: clusters.hpc.slurm_config.max_job_time: '24:61:00' is not a time limit: minutes and"
                " seconds go to 59 | write minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS or UNLIMITED,"
                " for example 24:00:00"
            ],
        ),
        (
            kube("cni: cilium"),
            [
                "7:30: error: clusters.cloud.kubernetes_config.cni: expected one of bridge, calico, flannel,"
                " got 'cilium'"
            ],
        ),
        (
            kube("source: 'http://x'"),
            [
                "7:33: error: clusters.cloud.kubernetes_config.source: expected auto, upstream, debian-source or"
                " bundle:PATH, got 'http://x' | for example auto"
            ],
        ),
        (
            kube("version: 1.19"),
            [
                "7:34: error: clusters.cloud.kubernetes_config.version: Kubernetes 1.19 is not supported from any"
                " source | supported: 1.20, 1.28, 1.29, 1.30, 1.31, 1.32, 1.33, 1.34"
            ],
        ),
        (
            kube("version: latest"),
            [
                "7:34: error: clusters.cloud.kubernetes_config.version: 'latest' is not a version"
                " | write for example 1.31 or 1.31.4"
            ],
        ),
        (
            kube("source: upstream, version: 1.20"),
            [
                "7:52: error: clusters.cloud.kubernetes_config.version: Kubernetes 1.20 is not supported from"
                " 'upstream' | supported: 1.28, 1.29, 1.30, 1.31, 1.32, 1.33, 1.34"
            ],
        ),
        (
            kube("source: debian-source, version: 1.20.7"),
            [
                "7:57: error: clusters.cloud.kubernetes_config.version: Debian's source package is Kubernetes 1.20.2,"
                " not 1.20.7 | write 1.20.2, or remove the key"
            ],
        ),
        (
            kube("pod_subnet: 192.168.0.0/16"),
            [
                "7:37: error: clusters.cloud.kubernetes_config.pod_subnet: the network of the pods (192.168.0.0/16)"
                " overlaps 192.168.200.0/24 of cloud_network"
                " | move one of them: no address may be both a node's and a pod's or a service's"
            ],
        ),
        (
            kube("service_subnet: 10.244.0.0/20"),
            [
                "7:41: error: clusters.cloud.kubernetes_config.service_subnet: the networks of pods and services"
                " overlap (10.244.0.0/16) | for example 10.244.0.0/16 for pods and 10.96.0.0/12 for services"
            ],
        ),
        (
            kube("pod_subnet: 10.244.0.0/24", workers="cpu_workers: {count: 2}"),
            [
                "7:37: error: clusters.cloud.kubernetes_config.pod_subnet: 10.244.0.0/24 has a /24 for 1 node, and the"
                " cluster has 3 | choose a larger network, for example 10.244.0.0/16"
            ],
        ),
        (
            kube(head="cpu_cores: 1, memory_gb: 1"),
            [
                "5:32: error: clusters.cloud.control_plane.cpu_cores: kubeadm refuses a control plane with 1 core"
                " | give it 2 or more",
                "5:46: error: clusters.cloud.control_plane.memory_gb: kubeadm refuses a control plane with 1024 MiB of"
                " memory | give it 1.75 GB or more",
            ],
        ),
        (
            kube(workers="cpu_workers: {count: 0}"),
            [
                "6:20: warning: clusters.cloud.worker_nodes.cpu_workers: there is no worker, so that pods have nowhere"
                " to run | set `count: 1`"
            ],
        ),
    ],
)
def test_wording_and_place(faults: Judge, text: str, expected: list[str]) -> None:
    assert faults(text) == expected


def test_partitions_with_nodes(spec_of: Load) -> None:
    spec = spec_of(slurm("partitions: [all, {name: one, nodes: [hpc-compute-1]}], max_job_time: 24:00:00"))
    assert spec.slurm is not None
    assert spec.slurm.partitions == (PartitionSpec("all"), PartitionSpec("one", ("hpc-compute-1",)))
    assert spec.slurm.default_partition == "all"
    assert spec.slurm.max_job_seconds == 86400


@pytest.mark.parametrize("version", ["1.31", "v1.31.4", "1.20.2", ""])
def test_versions_that_are_fine(spec_of: Load, version: str) -> None:
    spec = spec_of(kube(f"version: '{version}'"))
    assert spec.kubernetes is not None
    assert spec.kubernetes.version == version


@pytest.mark.parametrize("cni", ["bridge", "flannel"])
def test_a_policy_that_nobody_would_enforce_is_refused(faults: Judge, cni: str) -> None:
    (fault,) = faults(kube(f"cni: {cni}, network_policy: default-deny"))
    assert f"cni: {cni} stores network policies and enforces none of them | write cni: calico" in fault


def test_calico_enforces_policies(spec_of: Load) -> None:
    spec = spec_of(kube("cni: calico, network_policy: default-deny"))
    assert spec.kubernetes is not None
    assert spec.kubernetes.network_policy == "default-deny"


@pytest.mark.parametrize(("cpu", "gpu", "warned"), [(0, 1, True), (1, 1, False), (0, 0, False)])
def test_a_taint_that_leaves_nothing_for_other_pods_is_told(faults: Judge, cpu: int, gpu: int, warned: bool) -> None:
    workers = f"cpu_workers: {{count: {cpu}}}, gpu_workers: {{count: {gpu}}}"
    found = faults(kube("taint_gpu_workers: true", workers=workers))
    assert any("taint_gpu_workers: all workers are GPU workers" in line for line in found) is warned
