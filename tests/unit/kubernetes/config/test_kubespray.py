"""The export for Kubespray."""

from __future__ import annotations

import json
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from emulator.core.errors import ConfigError
from emulator.kubernetes.config.kubespray import kubespray_inventory
from emulator.labfile.model import ClusterKind, ClusterSpec, KubernetesSpec, NodeSpec, Role
from emulator.labfile.networks import NetworkSpec

# What the group_vars of Kubespray's sample inventory set, with its values.
SAMPLE = {
    "kube_network_plugin": "calico",
    "kube_service_addresses": "10.233.0.0/18",
    "kube_pods_subnet": "10.233.64.0/18",
    "kube_network_node_prefix": 24,
    "cluster_name": "cluster.local",
    "container_manager": "containerd",
    "kube_version": "1.32.5",
    "gateway_api_enabled": False,
    "local_path_provisioner_enabled": False,
}


def inventory(wants: KubernetesSpec) -> str:
    nodes = (
        NodeSpec("cloud-control-plane", Role.CLOUD_CONTROL_PLANE, 2, 2048, 10, IPv4Address("10.20.0.10")),
        NodeSpec("cloud-cpu-worker-1", Role.CLOUD_CPU_WORKER, 2, 2048, 10, IPv4Address("10.20.0.11")),
    )
    network = NetworkSpec(ClusterKind.CLOUD, IPv4Network("10.20.0.0/24"), "virbr-cloud")
    spec = ClusterSpec("demo", "", nodes, {ClusterKind.CLOUD: network}, kubernetes=wants)
    return kubespray_inventory(spec, {"ansible_user": "root"})


def parsed(wants: KubernetesSpec) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(inventory(wants))["all"]
    return found


def test_kubespray_gets_its_groups() -> None:
    document = parsed(KubernetesSpec())
    worker = document["hosts"]["cloud-cpu-worker-1"]
    assert {worker[name] for name in ("ansible_host", "ip", "access_ip")} == {"10.20.0.11"}
    children = document["children"]
    assert list(children["kube_control_plane"]["hosts"]) == list(children["etcd"]["hosts"]) == ["cloud-control-plane"]
    assert list(children["kube_node"]["hosts"]) == ["cloud-cpu-worker-1"]
    assert set(children["k8s_cluster"]["children"]) == {"kube_control_plane", "kube_node"}
    assert document["vars"] == {"ansible_user": "root"}


def test_the_labs_settings_win_beside_the_group_vars_of_kubesprays_sample(tmp_path: Path) -> None:
    wants = KubernetesSpec(
        cni="flannel",
        ingress="traefik",
        storage_class="local-path",
        version="v1.31.4",
        pod_subnet=IPv4Network("10.50.0.0/16"),
        service_subnet=IPv4Network("10.60.0.0/16"),
    )
    (tmp_path / "hosts.yaml").write_text(inventory(wants))
    for group in ("all", "k8s_cluster"):
        (tmp_path / "group_vars" / group).mkdir(parents=True)
        (tmp_path / "group_vars" / group / "sample.yml").write_text(yaml.safe_dump(SAMPLE))
    program = Path(sys.executable).with_name("ansible-inventory")
    listed = subprocess.run(
        [program, "-i", tmp_path / "hosts.yaml", "--list"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    for variables in json.loads(listed.stdout)["_meta"]["hostvars"].values():
        assert {name: variables[name] for name in SAMPLE} == {
            "kube_network_plugin": "flannel",
            "kube_service_addresses": "10.60.0.0/16",
            "kube_pods_subnet": "10.50.0.0/16",
            "kube_network_node_prefix": 24,
            "cluster_name": "cluster.local",
            "container_manager": "containerd",
            "kube_version": "1.31.4",
            "gateway_api_enabled": True,
            "local_path_provisioner_enabled": True,
        }


@pytest.mark.parametrize(("cni", "plugin"), [("bridge", "cni"), ("calico", "calico"), ("flannel", "flannel")])
def test_network_plugins_have_kubesprays_names(cni: str, plugin: str) -> None:
    hosts = parsed(KubernetesSpec(cni=cni))["hosts"]
    assert {host["kube_network_plugin"] for host in hosts.values()} == {plugin}


@pytest.mark.parametrize(
    ("version", "given"), [("", None), ("1.31", None), ("v1.31", None), ("1.31.4", "1.31.4"), ("v1.31.4", "1.31.4")]
)
def test_kubespray_is_told_full_versions_only_and_without_the_letter(version: str, given: str | None) -> None:
    for host in parsed(KubernetesSpec(version=version))["hosts"].values():
        assert host.get("kube_version") == given


def test_a_lab_without_kubernetes_has_nothing_for_kubespray() -> None:
    network = NetworkSpec(ClusterKind.CLOUD, IPv4Network("10.20.0.0/24"), "virbr-cloud")
    with pytest.raises(ConfigError, match="no Kubernetes cluster"):
        kubespray_inventory(ClusterSpec("demo", "", (), {ClusterKind.CLOUD: network}), {})
