"""kubeadm's configuration, for every version of its API."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from emulator.labfile.kubernetes_versions import BUNDLE_MINORS
from emulator.labfile.model import SERVICE_SUBNET

PROGRAM = Path(__file__).parents[3] / "playbooks/module_utils/kubeadm_config.py"
CLUSTER = {
    "name": "demo",
    "control_plane_ip": "10.20.0.10",
    "pod_subnet": "10.244.0.0/16",
    "service_subnet": str(SERVICE_SUBNET),
    "cni": "bridge",
}
NODE = {"name": "cloud-control-plane", "ip": "10.20.0.10"}
API = {"1.28": "v1beta3", "1.29": "v1beta3", "1.30": "v1beta3"}
# Labs of earlier versions of this program go on with what it no longer sets up.
MINORS = (*API, "1.31", "1.32", "1.33", *BUNDLE_MINORS)


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("kubeadm_config", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


config = load()


def release(minor: str) -> dict[str, Any]:
    return {"version": f"{minor}.2", "repository": "hyperscaler.invalid/kubernetes"}


def init(minor: str, **changes: str) -> dict[str, dict[str, Any]]:
    text = config.to_yaml(config.init_documents(release(minor), {**CLUSTER, **changes}, NODE, 900))
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.mark.parametrize("minor", MINORS)
def test_each_supported_version_gets_its_api_version(minor: str) -> None:
    expected = f"kubeadm.k8s.io/{API.get(minor, 'v1beta4')}"
    documents = init(minor)
    assert documents["InitConfiguration"]["apiVersion"] == expected
    assert documents["ClusterConfiguration"]["apiVersion"] == expected
    assert documents["ClusterConfiguration"]["kubernetesVersion"] == f"v{minor}.2"
    joined = config.join_documents(release(minor), CLUSTER, NODE, "abcdef.0123456789abcdef", ["sha256:00"], 900)
    assert joined[0]["apiVersion"] == expected


@pytest.mark.parametrize("minor", MINORS)
def test_extra_arguments_have_the_shape_of_the_api_version(minor: str) -> None:
    documents = init(minor)
    arguments = documents["ClusterConfiguration"]["controllerManager"]["extraArgs"]
    kubelet = documents["InitConfiguration"]["nodeRegistration"]["kubeletExtraArgs"]
    if minor in API:
        assert arguments["leader-elect"] == "false"
        assert kubelet == {"node-ip": "10.20.0.10"}
    else:
        assert {"name": "leader-elect", "value": "false"} in arguments
        assert kubelet == [{"name": "node-ip", "value": "10.20.0.10"}]


@pytest.mark.parametrize("minor", MINORS)
def test_timeouts_are_where_the_api_version_has_them(minor: str) -> None:
    documents = init(minor)
    join = config.join_documents(release(minor), CLUSTER, NODE, "abcdef.0123456789abcdef", ["sha256:00"], 900)[0]
    if minor in API:
        assert documents["ClusterConfiguration"]["apiServer"]["timeoutForControlPlane"] == "900s"
        assert join["discovery"]["timeout"] == "900s"
        assert "timeouts" not in documents["InitConfiguration"]
    else:
        assert documents["InitConfiguration"]["timeouts"]["controlPlaneComponentHealthCheck"] == "900s"
        assert "timeoutForControlPlane" not in documents["ClusterConfiguration"]["apiServer"]
        assert join["timeouts"]["discovery"] == "900s"


@pytest.mark.parametrize("minor", MINORS)
def test_a_worker_registers_with_its_taints(minor: str) -> None:
    taint = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    for taints, expected in (([taint], [taint]), ([], None)):
        node = {**NODE, "taints": taints}
        join = config.join_documents(release(minor), CLUSTER, node, "abcdef.0123456789abcdef", ["sha256:00"], 900)[0]
        assert join["nodeRegistration"].get("taints") == expected
    # Without the key, kubeadm gives the control plane its own.
    assert "taints" not in init(minor)["InitConfiguration"]["nodeRegistration"]


@pytest.mark.parametrize("minor", MINORS)
def test_the_clusters_configuration_names_no_certificate_of_a_node(minor: str) -> None:
    """It is every node's, and one that somebody joined by hand has none of the lab: each node's own kubelet is told."""
    join = config.join_documents(release(minor), CLUSTER, NODE, "abcdef.0123456789abcdef", ["sha256:00"], 900)
    text = config.to_yaml([*config.init_documents(release(minor), CLUSTER, NODE, 900), *join])
    assert "/etc/hyperscaler/tls" not in text
    assert not {"tlsCertFile", "tlsPrivateKeyFile", "serverTLSBootstrap"} & set(init(minor)["KubeletConfiguration"])
    # And the API server asks no kubelet for a certificate of the lab, which those would not have either.
    assert "kubelet-certificate-authority" not in text


def test_the_cas_hash_is_pinned_and_never_skipped() -> None:
    hashes = ["sha256:" + "ab" * 32]
    join = config.join_documents(release("1.37"), CLUSTER, NODE, "abcdef.0123456789abcdef", hashes, 900)[0]
    assert join["discovery"]["bootstrapToken"]["caCertHashes"] == hashes
    assert "unsafeSkipCAVerification" not in join["discovery"]["bootstrapToken"]
    with pytest.raises(ValueError, match="without the hash"):
        config.join_documents(release("1.37"), CLUSTER, NODE, "abcdef.0123456789abcdef", [], 900)


def test_only_the_bridge_takes_pod_networks_out_of_kubernetes_hands() -> None:
    off = {"name": "allocate-node-cidrs", "value": "false"}
    for cni, taken in (("bridge", True), ("calico", False), ("flannel", False)):
        arguments = init("1.37", cni=cni)["ClusterConfiguration"]["controllerManager"]["extraArgs"]
        assert (off in arguments) is taken


def test_kubelet_uses_systemds_cgroups_and_keeps_its_images() -> None:
    kubelet = init("1.31")["KubeletConfiguration"]
    assert kubelet["cgroupDriver"] == "systemd"
    assert kubelet["imageGCHighThresholdPercent"] == 100
    assert kubelet["clusterDNS"] == ["10.96.0.10"]


@pytest.mark.parametrize("version", ["1.18.3", "1.27.16", "2.0.0"])
def test_versions_without_a_known_configuration_are_refused(version: str) -> None:
    with pytest.raises(config.UnsupportedVersionError, match=version):
        config.api_version(version)


@pytest.mark.parametrize("minor", MINORS)
def test_admission_refuses_services_with_addresses_of_others(minor: str) -> None:
    arguments = init(minor)["ClusterConfiguration"]["apiServer"]["extraArgs"]
    if isinstance(arguments, list):
        arguments = {entry["name"]: entry["value"] for entry in arguments}
    assert arguments["enable-admission-plugins"] == "NodeRestriction,DenyServiceExternalIPs"


@pytest.mark.parametrize("minor", MINORS)
def test_static_pods_are_checked_with_patience(minor: str) -> None:
    patches = {name: yaml.safe_load(text)["spec"] for name, text in config.patches(f"{minor}.2").items()}
    dns = patches.pop("corednsdeployment+strategic.json", None)
    assert len(patches) == 4
    for name, spec in patches.items():
        (container,) = spec["containers"]
        assert name == f"{container['name']}+strategic.json"
        probe = container["livenessProbe"]
        assert probe["failureThreshold"] * probe["periodSeconds"] >= 600
        # Where kubeadm has no such check, ours would lack what is to be asked, and the pod would be refused.
        asked = container["name"] == "kube-apiserver" or (dns is not None and "manager" not in container["name"])
        assert ("readinessProbe" in container) is asked
    assert init(minor)["InitConfiguration"]["patches"] == {"directory": config.PATCHES}


def test_the_control_plane_has_time_and_cheap_keys_where_it_is_emulated() -> None:
    documents = init("1.37")
    assert documents["ClusterConfiguration"]["encryptionAlgorithm"] == "ECDSA-P256"
    assert documents["InitConfiguration"]["timeouts"]["kubernetesAPICall"] == "15m0s"
    etcd = {
        each["name"]: int(each["value"]) for each in documents["ClusterConfiguration"]["etcd"]["local"]["extraArgs"]
    }
    assert etcd["election-timeout"] >= 5 * etcd["heartbeat-interval"]
    assert "encryptionAlgorithm" not in init("1.30")["ClusterConfiguration"], "v1beta3 has no such key"


@pytest.mark.parametrize("minor", MINORS)
def test_pods_leave_their_node_enough_to_answer(minor: str) -> None:
    kubelet = init(minor)["KubeletConfiguration"]
    assert kubelet["enforceNodeAllocatable"] == ["pods"]
    reserved = [kubelet["systemReserved"], kubelet["kubeReserved"]]
    # On the smallest worker, 1 GiB, pods keep most.
    assert sum(int(each["memory"].removesuffix("Mi")) for each in reserved) <= 256
    # A few pods at their limit do not use up the kernel's 32768 numbers, and the node's own programs have some left.
    assert kubelet["podPidsLimit"] == 1024
    assert sum(int(each["pid"]) for each in reserved) >= 1000
    assert {"nodefs.inodesFree", "pid.available"} <= set(kubelet["evictionHard"])
    assert kubelet["volumeStatsAggPeriod"] == "1m0s"
    assert (kubelet["containerLogMaxSize"], kubelet["containerLogMaxFiles"]) == ("5Mi", 3)
    assert kubelet["seccompDefault"] is True


@pytest.mark.parametrize("minor", MINORS)
def test_the_database_has_room_and_is_compacted_each_minute(minor: str) -> None:
    configuration = init(minor)["ClusterConfiguration"]
    given = configuration["etcd"]["local"]["extraArgs"], configuration["apiServer"]["extraArgs"]
    etcd, server = (
        value if isinstance(value, dict) else {each["name"]: each["value"] for each in value} for value in given
    )
    assert etcd["quota-backend-bytes"] == str(4 << 30)
    assert server["etcd-compaction-interval"] == "1m0s"
