"""What the playbook's modules decide: when kubeadm starts over, which labels differ, which nodes go."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pytest
import yaml

PLAYBOOKS = Path(__file__).parents[3] / "playbooks"


def load(path: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PLAYBOOKS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


load("module_utils/kubeadm_config.py", "ansible.module_utils.kubeadm_config")
kubeadm_node = load("library/kubeadm_node.py", "kubeadm_node")
objects = load("library/kubernetes_objects.py", "kubernetes_objects")

RELEASE = {
    "version": "1.20.2",
    "repository": "hyperscaler.invalid/kubernetes",
    "cluster_dns": "hyperscaler.invalid/kubernetes/cluster-dns:1",
}
CLUSTER = {
    "name": "demo",
    "control_plane_ip": "10.20.0.10",
    "pod_subnet": "10.244.0.0/16",
    "service_subnet": "10.96.0.0/12",
    "cni": "bridge",
}
PARAMS = {
    "cluster": CLUSTER,
    "node": {"name": "cloud-control-plane", "ip": "10.20.0.10"},
    "timeout": 60,
    "token": "abcdef.0123456789abcdef",
    "ca_hash": "sha256:new",
}


class Node:
    """A node whose commands are recorded; files lie below a temporary directory."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.resets = 0
        self.remains = False
        self.failures = 0
        self.answering = True
        self.root = root
        for name in ("RECORD", "ADMIN", "CONFIG", "PATCHES", "FIRST_TOKEN"):
            monkeypatch.setattr(kubeadm_node, name, str(root / name.lower()))
        monkeypatch.setattr(kubeadm_node, "kubeadm", self.kubeadm)
        monkeypatch.setattr(kubeadm_node, "reset", self.reset)
        monkeypatch.setattr(kubeadm_node, "has_remains", lambda: self.remains)
        monkeypatch.setattr(kubeadm_node, "ca_hash", lambda: "sha256:new")
        monkeypatch.setattr(kubeadm_node, "start_kubelet", lambda: False)
        monkeypatch.setattr(kubeadm_node, "kubelet_journal", lambda: "")
        monkeypatch.setattr(kubeadm_node, "answers", lambda ip, timeout: self.answering)
        monkeypatch.setattr(kubeadm_node.time, "sleep", lambda seconds: None)

    def kubeadm(self, argv: list[str], timeout: int) -> None:
        self.commands.append(argv)
        (self.root / "admin").write_text("kubeconfig")
        if self.failures:
            self.failures -= 1
            raise kubeadm_node.NodeError("context deadline exceeded")

    def reset(self) -> None:
        self.resets += 1
        self.remains = False

    @property
    def record(self) -> dict[str, Any]:
        path = self.root / "record"
        return json.loads(path.read_text()) if path.exists() else {}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def test_init_is_done_once(node: Node) -> None:
    assert kubeadm_node.init(PARAMS, RELEASE) == (True, "sha256:new")
    assert kubeadm_node.init(PARAMS, RELEASE) == (False, "sha256:new")
    assert len(node.commands) == 1
    assert node.resets == 0
    assert (node.root / "config").stat().st_mode & 0o777 == 0o600


def test_the_first_token_serves_while_it_is_fresh(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeadm_node.init(PARAMS, RELEASE)
    path = node.root / "first_token"
    token = path.read_text()
    assert re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}", token)
    assert path.stat().st_mode & 0o777 == 0o600
    assert token not in (node.root / "config").read_text()
    assert kubeadm_node.new_token() == token
    os.utime(path, (1, 1))
    asked = []

    def run(argv: list[str], timeout: int, **_: Any) -> Any:
        asked.append(argv)
        return subprocess.CompletedProcess(argv, 0, "fresh0.0123456789abcdef\n", "")

    monkeypatch.setattr(kubeadm_node, "run", run)
    assert kubeadm_node.new_token() == "fresh0.0123456789abcdef"
    assert asked[0][:3] == ["kubeadm", "token", "create"]
    assert not path.exists()


def test_an_interrupted_init_starts_over(node: Node) -> None:
    node.remains = True
    kubeadm_node.init(PARAMS, RELEASE)
    assert node.resets == 1
    assert node.record["role"] == "control-plane"


def test_a_failed_init_leaves_no_record(node: Node) -> None:
    node.failures, node.answering = 1, False
    with pytest.raises(kubeadm_node.NodeError):
        kubeadm_node.init(PARAMS, RELEASE)
    assert node.record == {}


def test_a_slow_api_server_costs_no_second_start(node: Node) -> None:
    node.failures = 2
    kubeadm_node.init(PARAMS, RELEASE)
    assert len(node.commands) == 3
    (skipped,) = [word for word in node.commands[-1] if word.startswith("--skip-phases=")]
    assert {"certs", "etcd", "control-plane", "addon/coredns"} <= set(skipped.partition("=")[2].split(","))
    assert node.resets == 0
    assert node.record["role"] == "control-plane"


def test_other_settings_of_a_finished_control_plane_are_refused(node: Node) -> None:
    kubeadm_node.init(PARAMS, RELEASE)
    changed = {**PARAMS, "cluster": {**CLUSTER, "pod_subnet": "10.245.0.0/16"}}
    with pytest.raises(kubeadm_node.NodeError, match="cannot be changed"):
        kubeadm_node.init(changed, RELEASE)
    assert len(node.commands) == 1


def test_coredns_is_left_to_kubeadm_where_its_image_is_there(node: Node) -> None:
    kubeadm_node.init(PARAMS, {**RELEASE, "version": "1.31.4", "cluster_dns": "registry.invalid/coredns/coredns:v1"})
    assert not any("skip-phases" in word or "ignore" in word for word in node.commands[0])


def test_join_pins_the_ca_and_keeps_no_token(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def kubeadm(argv: list[str], timeout: int) -> None:
        seen.append((node.root / "config").read_text())
        assert PARAMS["token"] not in " ".join(argv)

    monkeypatch.setattr(kubeadm_node, "kubeadm", kubeadm)
    node.remains = True
    assert kubeadm_node.join(PARAMS, RELEASE) == (True, "sha256:new")
    assert node.resets == 1
    assert '"sha256:new"' in seen[0]
    assert not (node.root / "config").exists()
    assert node.record == {"format": 1, "role": "worker", "ca_hash": "sha256:new"}


def test_a_worker_without_a_record_is_no_member(node: Node) -> None:
    assert kubeadm_node.probe(PARAMS, RELEASE) == (False, "")


# ---------------------------------------------------------------- objects
def test_only_labels_that_differ_are_set() -> None:
    seen = {"metadata": {"labels": {"compute": "cpu", "kubernetes.io/hostname": "a"}}, "spec": {}}
    assert objects.label_changes({"labels": {"compute": "cpu"}}, seen) == []
    assert objects.label_changes({"labels": {"compute": "gpu", "role": "x"}}, seen) == ["compute=gpu", "role=x"]


def test_managed_taints_come_and_go_and_foreign_ones_stay() -> None:
    gpu = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    foreign = {"key": "maintenance", "effect": "NoExecute"}
    bare = {"metadata": {}, "spec": {"taints": [foreign]}}
    tainted = {"metadata": {}, "spec": {"taints": [foreign, gpu]}}
    managed = ["nvidia.com/gpu"]
    assert objects.taint_changes({"taints": [gpu]}, bare, managed) == ["nvidia.com/gpu=present:NoSchedule"]
    assert objects.taint_changes({"taints": [gpu]}, tainted, managed) == []
    assert objects.taint_changes({"taints": []}, tainted, managed) == ["nvidia.com/gpu:NoSchedule-"]


def cluster_node(name: str, *, ready: bool) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": "True" if ready else "Unknown"}]
    return {"metadata": {"name": name, "labels": {}}, "spec": {}, "status": {"conditions": conditions}}


@pytest.mark.parametrize(("ready", "first"), [(True, "drain"), (False, "cordon")])
def test_departed_nodes_are_drained_and_deleted(monkeypatch: pytest.MonkeyPatch, ready: bool, first: str) -> None:
    items = [cluster_node("a", ready=True), cluster_node("gone", ready=ready)]
    calls = []

    def kubectl(*words: str, stdin: str | None = None, timeout: int = 0) -> str:
        calls.append(words[:3])
        return json.dumps({"items": items}) if words[0] == "get" else ""

    monkeypatch.setattr(objects, "kubectl", kubectl)
    assert objects.converge_nodes([{"name": "a"}], [], check=False) == ["gone removed"]
    changing = [call for call in calls if call[0] != "get"]
    assert [call[0] for call in changing] == [first, "delete"]
    assert all("gone" in call for call in changing)


def test_a_workload_says_what_it_waits_for() -> None:
    daemon = {
        "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "generation": 1},
        "status": {"observedGeneration": 1, "desiredNumberScheduled": 2, "numberReady": 1},
    }
    assert objects.workload_trouble(daemon) == ["daemonset kube-proxy: 1 of 2 pods ready"]
    daemon["status"]["numberReady"] = 2  # type: ignore[index]
    assert objects.workload_trouble(daemon) == []
    fresh = {"kind": "Deployment", "metadata": {"name": "dns", "generation": 2}, "spec": {"replicas": 1}, "status": {}}
    assert objects.workload_trouble(fresh) == ["deployment dns has not been looked at yet"]


def test_manifests_that_kubectl_finds_unchanged_the_second_time() -> None:
    # kubectl's patch of a Deployment whose strategy names no type is never empty.
    template = (PLAYBOOKS / "roles/k8s_control_plane/templates/cluster-dns.yaml.j2").read_text()
    values = {"kubernetes_dns_ip": "10.96.0.10", "kubernetes_release": RELEASE}
    documents = list(yaml.safe_load_all(jinja2.Template(template).render(values)))
    deployments = [document for document in documents if document["kind"] == "Deployment"]
    assert deployments
    for deployment in deployments:
        assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"
        assert deployment["spec"]["template"]["spec"]["containers"][0]["image"] == RELEASE["cluster_dns"]
