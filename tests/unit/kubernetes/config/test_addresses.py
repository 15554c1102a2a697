"""Networks of the pods, and the container runtime."""

from __future__ import annotations

import tomllib
from ipaddress import IPv4Address, IPv4Network

import pytest

from emulator.core.errors import ConfigError
from emulator.kubernetes.config.addresses import pod_subnets
from emulator.kubernetes.config.containerd import containerd_config
from emulator.labfile.model import ClusterKind, ClusterSpec, KubernetesSpec, NodeSpec, Role
from emulator.labfile.networks import NetworkSpec


def lab(*last_octets: int, pods: str = "10.244.0.0/16") -> ClusterSpec:
    nodes = tuple(
        NodeSpec(
            "cloud-control-plane" if index == 0 else f"cloud-cpu-worker-{index}",
            Role.CLOUD_CONTROL_PLANE if index == 0 else Role.CLOUD_CPU_WORKER,
            2,
            2048,
            10,
            IPv4Address(f"10.20.0.{octet}"),
        )
        for index, octet in enumerate(last_octets)
    )
    network = NetworkSpec(ClusterKind.CLOUD, IPv4Network("10.20.0.0/24"), "virbr-cloud")
    kubernetes = KubernetesSpec(pod_subnet=IPv4Network(pods))
    return ClusterSpec("demo", "", nodes, {ClusterKind.CLOUD: network}, kubernetes=kubernetes)


def test_a_nodes_pod_network_follows_from_its_address() -> None:
    subnets = pod_subnets(lab(10, 11, 12))
    assert [str(subnet) for subnet in subnets.values()] == ["10.244.10.0/24", "10.244.11.0/24", "10.244.12.0/24"]


def test_it_stays_while_other_nodes_go() -> None:
    assert pod_subnets(lab(10, 12))["cloud-cpu-worker-1"] == pod_subnets(lab(10, 11, 12))["cloud-cpu-worker-2"]


def test_in_a_small_network_free_numbers_are_taken_and_none_twice() -> None:
    subnets = pod_subnets(lab(2, 50, 60, pods="10.244.0.0/22"))
    assert subnets["cloud-control-plane"] == IPv4Network("10.244.2.0/24")
    assert len(set(subnets.values())) == 3
    assert all(subnet.subnet_of(IPv4Network("10.244.0.0/22")) for subnet in subnets.values())


@pytest.mark.parametrize("pods", ["10.244.0.0/24", "10.244.0.0/25"])
def test_more_nodes_than_networks_is_an_error_that_names_the_key(pods: str) -> None:
    with pytest.raises(ConfigError, match="the cluster has 2 nodes") as caught:
        pod_subnets(lab(10, 11, pods=pods))
    assert "pod_subnet" in caught.value.where


@pytest.mark.parametrize(
    ("major", "sandbox"),
    [(1, ("io.containerd.grpc.v1.cri", "sandbox_image")), (2, ("io.containerd.cri.v1.images", ""))],
)
def test_containerd_gets_the_systemd_driver_and_the_pause_image(major: int, sandbox: tuple[str, str]) -> None:
    pause = "hyperscaler.invalid/kubernetes/pause:3.2"
    plugins = tomllib.loads(containerd_config(pause, major=major))["plugins"]
    plugin, key = sandbox
    runtime = plugins[plugin if major < 2 else "io.containerd.cri.v1.runtime"]["containerd"]
    assert runtime["runtimes"]["runc"]["options"]["SystemdCgroup"] is True
    assert (plugins[plugin][key] if key else plugins[plugin]["pinned_images"]["sandbox"]) == pause
