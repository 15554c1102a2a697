"""Slurm's and Kubernetes' own checks."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emulator.labfile.kubernetes_versions import BUNDLE_MINORS, MODULE_MINORS, UPSTREAM_MINORS
from emulator.labfile.model import ClusterSpec, PartitionSpec
from emulator.labfile.values.hostlist import expand_hostlist
from emulator.labfile.values.slurm_time import parse_slurm_time

Judge = Callable[[str], list[str]]
Load = Callable[[str], ClusterSpec]
UPSTREAM, ALL = ", ".join(UPSTREAM_MINORS), ", ".join(BUNDLE_MINORS)

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
                " (hpc-compute-1 to hpc-compute-2) | raise the count of compute_nodes to 3, or name another node"
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
            slurm("partitions: [{name: a, nodes: [hpc-compute-1, hpc-computer]}]"),
            [
                "6:66: error: clusters.hpc.slurm_config.partitions[0].nodes[1]: 'hpc-computer' is not a compute node"
                " (hpc-compute-1 to hpc-compute-2) | did you mean 'hpc-compute-2'?"
            ],
        ),
        (
            slurm("partitions: [{name: a, nodes: ['hpc-compute-[1-3]']}]"),
            [
                "6:51: error: clusters.hpc.slurm_config.partitions[0].nodes[0]: 'hpc-compute-3' is not a compute node"
                " (hpc-compute-1 to hpc-compute-2) | raise the count of compute_nodes to 3, or name another node"
            ],
        ),
        (
            slurm("partitions: [{name: a, nodes: ['ALL']}]"),
            [
                "6:51: error: clusters.hpc.slurm_config.partitions[0].nodes[0]: 'ALL' is not a compute node"
                " (hpc-compute-1 to hpc-compute-2) | leave `nodes` out: the partition has all compute nodes then"
            ],
        ),
        (
            slurm("partitions: [{name: a, nodes: ['hpc-compute-*']}]"),
            [
                "6:51: error: clusters.hpc.slurm_config.partitions[0].nodes[0]: 'hpc-compute-*' is not a compute node"
                " (hpc-compute-1 to hpc-compute-2) | write each node, or a range such as hpc-compute-[1-2]"
            ],
        ),
        (
            slurm("partitions: [{name: a, nodes: ['hpc-compute-[01-02]']}]"),
            [
                "6:51: error: clusters.hpc.slurm_config.partitions[0].nodes[0]: 'hpc-compute-01' is not a compute node"
                " (hpc-compute-1 to hpc-compute-2) | did you mean 'hpc-compute-1'?"
            ],
        ),
        (
            slurm("partitions: [{name: a, nodes: ['hpc-compute-[1-9999999]']}]"),
            [
                "6:51: error: clusters.hpc.slurm_config.partitions[0].nodes[0]: 'hpc-compute-[1-9999999]' names no"
                " nodes: a number of [1-9999999] has more than 6 digits"
                " | for example hpc-compute-1 or hpc-compute-[1-2]"
            ],
        ),
        (
            slurm("partitions: [{name: a, nodes: 'hpc-compute-[1-2]'}]"),
            [
                "6:50: error: clusters.hpc.slurm_config.partitions[0].nodes: expected a list, got 'hpc-compute-[1-2]'"
                ' | write it as a list: ["hpc-compute-[1-2]"]'
            ],
        ),
        (
            slurm("partitions: [{name: a, nodes: ['hpc-compute-[2-1]']}]"),
            [
                "6:51: error: clusters.hpc.slurm_config.partitions[0].nodes[0]: 'hpc-compute-[2-1]' names no nodes: 2-1"
                " ends before it begins | for example hpc-compute-1 or hpc-compute-[1-2]"
            ],
        ),
        (
            slurm("partitions: [{name: a, max_job_time: 2:00:00}], max_job_time: 30"),
            [
                "6:57: error: clusters.hpc.slurm_config.partitions[0].max_job_time: longer than the 30 of slurm_config"
                " | lower it, or raise max_job_time of slurm_config"
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
                " got 'cilium' | write bridge, calico or flannel"
            ],
        ),
        (
            kube("mig_strategy: foo, ingress: haproxy"),
            [
                "7:39: error: clusters.cloud.kubernetes_config.mig_strategy: expected one of none, single, mixed,"
                " got 'foo' | write none, single or mixed",
                "7:53: error: clusters.cloud.kubernetes_config.ingress: expected none, traefik or lab-ingress, got"
                " 'haproxy' | for example lab-ingress",
            ],
        ),
        (
            kube("source: modules, cni: flannel, ingress: traefik, storage_class: local-path"),
            [
                "7:47: error: clusters.cloud.kubernetes_config.cni: 'flannel' needs a manifest and images from"
                " upstream: modules does not have it | write bridge, or take source: upstream, or a bundle made there",
                "7:65: error: clusters.cloud.kubernetes_config.ingress: 'traefik' needs a manifest and images from"
                " upstream: modules does not have it | write none, or take source: upstream, or a bundle made there",
            ],
        ),
        (
            kube("source: upstream, ingress: lab-ingress, helm: true"),
            [
                "7:52: error: clusters.cloud.kubernetes_config.ingress: upstream does not have 'lab-ingress' | write"
                " traefik, or take source: modules, or a bundle made with it",
                "7:71: error: clusters.cloud.kubernetes_config.helm: upstream does not have Helm | take source:"
                " modules, or a bundle made with it",
            ],
        ),
        (kube("source: modules, ingress: lab-ingress, helm: true"), []),
        (
            kube("ingress: nginx"),
            [
                "7:34: error: clusters.cloud.kubernetes_config.ingress: nginx is no ingress controller any more: its"
                " project ended in March 2026, and it gets no updates | write `ingress: traefik`"
            ],
        ),
        (
            kube("source: modules, ingress: nginx"),
            [
                "7:51: error: clusters.cloud.kubernetes_config.ingress: nginx is no ingress controller any more: its"
                " project ended in March 2026, and it gets no updates | write `ingress: none`, or `ingress: traefik`"
                " and source: upstream, or a bundle made there"
            ],
        ),
        (
            kube("version: 1.31"),
            [
                "7:34: error: clusters.cloud.kubernetes_config.version: Kubernetes 1.31 is not supported from any"
                f" source | write for example 1.37; supported: {ALL}"
            ],
        ),
        (
            kube("source: debian-source, cni: flannel"),
            [
                "7:33: error: clusters.cloud.kubernetes_config.source: debian-source is no source any more: Debian 12"
                " has Kubernetes 1.20, which has known holes and gets no updates | write `source: modules`"
            ],
        ),
        (
            kube("pod_subnet: 127.0.0.0/16, service_subnet: 224.0.0.0/16"),
            [
                "7:37: error: clusters.cloud.kubernetes_config.pod_subnet: 127.0.0.0/16 cannot be used for pods:"
                " 127.0.0.0/8 is the loopback network of every machine | for example 10.244.0.0/16",
                "7:67: error: clusters.cloud.kubernetes_config.service_subnet: 224.0.0.0/16 cannot be used for"
                " services: 224.0.0.0/3 is for multicast and reserved addresses | for example 10.96.0.0/12",
            ],
        ),
        (
            kube("pod_subnet: 169.254.0.0/16"),
            [
                "7:37: error: clusters.cloud.kubernetes_config.pod_subnet: 169.254.0.0/16 cannot be used for pods:"
                " 169.254.0.0/16 is for link-local addresses | for example 10.244.0.0/16"
            ],
        ),
        (
            kube("pod_subnet: 10.244.0.0/21", workers="cpu_workers: {count: 2}"),
            [
                "7:37: error: clusters.cloud.kubernetes_config.pod_subnet: 10.244.0.0/21 has 8 networks of pods,"
                " numbered from 0, and the node 192.168.200.12 has number 12: it follows from its address, so that it"
                " stays while other nodes come and go | choose a /20 or larger, for example 10.244.0.0/16, or give"
                " the nodes addresses up to 192.168.200.7"
            ],
        ),
        (
            kube(workers="cpu_workers: {count: 1, memory_gb: 0.5}"),
            [
                "6:55: warning: clusters.cloud.worker_nodes.cpu_workers.memory_gb: 512 MiB of memory leave almost"
                " nothing for pods besides the system and kubelet | give it 1 GB or more"
            ],
        ),
        (
            kube(workers="cpu_workers: {count: 1, memory_gb: 0.25}"),
            [
                "6:55: error: clusters.cloud.worker_nodes.cpu_workers.memory_gb: 256 MiB of memory do not hold the"
                " system, containerd and kubelet | give it 0.5 GB at least, and 1 GB or more for pods to have room"
            ],
        ),
        (
            kube(head="disk_gb: 2", workers="cpu_workers: {count: 1, disk_gb: 2}, gpu_workers: {count: 0, disk_gb: 2}"),
            [
                f"{place}.disk_gb: a node takes about 2 GiB with its image and all that is set up, which leaves kubelet"
                " too little of 2 GiB to run pods | give it 3 GB or more"
                for place in (
                    "5:30: error: clusters.cloud.control_plane",
                    "6:53: error: clusters.cloud.worker_nodes.cpu_workers",
                )
            ],
        ),
        (
            kube("source: 'bundle:  '"),
            [
                "7:33: error: clusters.cloud.kubernetes_config.source: expected auto, upstream, modules or"
                " bundle:PATH, got 'bundle:  ' | for example auto"
            ],
        ),
        (
            kube("source: 'http://x'"),
            [
                "7:33: error: clusters.cloud.kubernetes_config.source: expected auto, upstream, modules or"
                " bundle:PATH, got 'http://x' | for example auto"
            ],
        ),
        (
            kube("version: 1.20"),
            [
                "7:34: error: clusters.cloud.kubernetes_config.version: Kubernetes 1.20 is not supported from any"
                f" source | write for example 1.37; supported: {ALL}"
            ],
        ),
        (
            kube("version: latest"),
            [
                "7:34: error: clusters.cloud.kubernetes_config.version: 'latest' is not a version"
                f" | write for example 1.37 or 1.37.2; supported: {ALL}"
            ],
        ),
        (
            kube("source: upstream, version: 1.20"),
            [
                "7:52: error: clusters.cloud.kubernetes_config.version: Kubernetes 1.20 is not supported from"
                f" 'upstream' | write for example 1.37; supported: {UPSTREAM}"
            ],
        ),
        (
            kube("source: modules, version: 1.35"),
            [
                "7:51: error: clusters.cloud.kubernetes_config.version: Kubernetes 1.35 is not supported from"
                f" 'modules' | write for example 1.37; supported: {', '.join(MODULE_MINORS)}"
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
                " overlap (10.244.0.0/16) | for example 10.96.0.0/12"
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


def test_partitions_by_host_lists_and_with_limits_of_their_own(spec_of: Load) -> None:
    text = f"{HEAD}clusters:\n  hpc:\n    compute_nodes: {{count: 4}}\n    slurm_config:\n      max_job_time: 2:00:00\n"
    spec = spec_of(
        text + "      partitions:\n        - {name: a, nodes: ['hpc-compute-[1-2,4]', hpc-compute-3]}\n"
        "        - {name: b, max_job_time: 30}\n"
    )
    assert spec.slurm is not None
    assert spec.slurm.partitions == (
        PartitionSpec("a", ("hpc-compute-1", "hpc-compute-2", "hpc-compute-4", "hpc-compute-3")),
        PartitionSpec("b", max_job_seconds=1800),
    )
    assert spec.slurm.max_job_seconds == 7200


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[1-2,4]", ["n1", "n2", "n4"]),
        ("n[08-10]", ["n08", "n09", "n10"]),
        ("a[1-2]b[3-4]", ["a1b3", "a1b4", "a2b3", "a2b4"]),
        ("a,b[1-2],c", ["a", "b1", "b2", "c"]),
    ],
)
def test_host_lists(text: str, names: list[str]) -> None:
    assert list(expand_hostlist(text)) == names


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "a,",
        "n[",
        "n]",
        "n[]",
        "n[1",
        "n[a]",
        "n[1-]",
        "n[2-1]",
        "n[[1]]",
        "n[1-1001]",
        "n[1-100][1-100]",
        "n[１]",
    ],
)
def test_host_lists_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        expand_hostlist(text)


def test_a_node_listed_twice_is_reported_even_where_their_number_is_unknown(faults: Judge) -> None:
    text = slurm("partitions: [{name: a, nodes: [hpc-compute-1, hpc-compute-1]}]").replace("count: 2", "count: two")
    assert [each.split(" | ")[0].split(": ", 2)[2] for each in faults(text)] == [
        "clusters.hpc.compute_nodes.count: expected a whole number from 1 to 1000, got 'two'",
        "clusters.hpc.slurm_config.partitions[0].nodes[1]: the node 'hpc-compute-1' is listed twice",
    ]


def test_a_flood_of_host_lists_costs_nothing(faults: Judge) -> None:
    lists = ", ".join(["'hpc-compute-[1-1000]'"] * 1000)
    partitions = ", ".join(f"{{name: p{n}, nodes: [{lists}]}}" for n in range(30))
    found = faults(slurm(f"partitions: [{partitions}]"))
    assert len(found) == 2 * 30  # one for the range, one for the first repetition
    assert sum("'hpc-compute-3' is not a compute node" in each for each in found) == 30


@pytest.mark.parametrize("version", ["1.35", "v1.35.4", "1.37.2", ""])
def test_versions_that_are_fine(spec_of: Load, version: str) -> None:
    spec = spec_of(kube(f"version: '{version}'"))
    assert spec.kubernetes is not None
    assert spec.kubernetes.version == version


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            "cni: flannel",
            "cni: flannel stores network policies and enforces none of them | write cni: bridge, or network",
        ),
        ("cni: bridge, source: upstream", "with Kubernetes of upstream's | write cni: calico, or network_policy: none"),
        ("cni: bridge, version: 1.35", "with Kubernetes of upstream's | write cni: calico, or network_policy: none"),
        ("cni: flannel, source: upstream", "enforces none of them | write cni: calico, or network_policy: none"),
    ],
)
def test_a_policy_that_nobody_would_enforce_is_refused(faults: Judge, settings: str, said: str) -> None:
    (fault,) = faults(kube(f"{settings}, network_policy: default-deny"))
    assert said in fault


@pytest.mark.parametrize(
    "settings", ["cni: calico", "cni: bridge", "source: modules", "version: 1.37", "source: 'bundle:/srv/k8s.bundle'"]
)
def test_calico_and_the_bridge_of_modules_enforce_policies(spec_of: Load, settings: str) -> None:
    spec = spec_of(kube(f"{settings}, network_policy: default-deny"))
    assert spec.kubernetes is not None
    assert spec.kubernetes.network_policy == "default-deny"


@pytest.mark.parametrize(("cpu", "gpu", "warned"), [(0, 1, True), (1, 1, False), (0, 0, False)])
def test_a_taint_that_leaves_nothing_for_other_pods_is_told(faults: Judge, cpu: int, gpu: int, warned: bool) -> None:
    workers = f"cpu_workers: {{count: {cpu}}}, gpu_workers: {{count: {gpu}}}"
    found = faults(kube("taint_gpu_workers: true", workers=workers))
    assert any("taint_gpu_workers: all workers are GPU workers" in line for line in found) is warned


@pytest.mark.parametrize("settings", ["pod_subnet: 10.244.0.0/20", "pod_subnet: 10.244.0.0/16", "", "cni: calico"])
def test_a_pod_network_with_room_for_the_number_of_every_node(spec_of: Load, settings: str) -> None:
    spec_of(kube(settings, workers="cpu_workers: {count: 5}"))


def test_only_the_built_in_network_numbers_nodes_by_their_addresses(spec_of: Load) -> None:
    spec_of(kube("cni: flannel, pod_subnet: 10.244.0.0/22", workers="cpu_workers: {count: 2}"))


@pytest.mark.parametrize(
    "settings",
    [
        "source: upstream, cni: calico",
        "cni: calico",
        "version: 1.37, ingress: traefik",
        "source: modules, storage_class: local-path, metrics: metrics-server",
        "version: 1.37, storage_class: local-path",
    ],
)
def test_addons_that_some_source_can_have(spec_of: Load, settings: str) -> None:
    spec_of(kube(settings))


def test_real_gpus_need_a_source_with_nvidias_plugin(faults: Judge) -> None:
    text = (
        f"{HEAD}global:\n  gpu_allocation:\n    strategy: mig\n    devices:\n"
        '      - {id: GPU-0, pci_address: "0000:41:00.0", model: A100-SXM4-80GB, mig_capable: true}\n'
        f"clusters:\n  cloud:\n    worker_nodes: {{gpu_workers: {{count: 1}}}}\n"
        "    kubernetes_config: {source: modules}\n"
    )
    (fault,) = faults(text)
    assert "kubernetes_config.source: real GPUs of Kubernetes nodes need NVIDIA's device plugin" in fault


def released(settings: str, images: str) -> str:
    return slurm(settings) + f"images: {{{images}}}\n"


@pytest.mark.parametrize("settings", ["mpi: pmix", "rest_api: true", "scrontab: true"])
def test_what_the_slurm_of_an_older_release_does_not_have_is_refused(faults: Judge, settings: str) -> None:
    key = settings.partition(":")[0]
    for images in ("release: bookworm", "hpc: hpc-base-bookworm"):
        assert faults(released(settings, images)) == [
            f"6:{20 + len(key) + 2}: error: clusters.hpc.slurm_config.{key}: not with Slurm 22.05 of Debian 12, which"
            " the nodes have | write `images: {release: trixie}`, or leave it out"
        ]
    for images in ("release: trixie", "hpc: hpc-base-trixie", "hpc: mine"):
        assert faults(released(settings, images)) == []


def test_what_is_left_off_fits_every_release(faults: Judge) -> None:
    assert (
        faults(released("mpi: none, rest_api: false, scrontab: false, priority: fairshare", "release: bookworm")) == []
    )
