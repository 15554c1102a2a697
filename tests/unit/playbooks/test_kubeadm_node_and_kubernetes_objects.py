"""What the playbook's modules decide: when kubeadm starts over, which labels differ, which nodes go."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from tests.support.playbook_modules import CLUSTER, PARAMS, PLAYBOOKS, RELEASE, kubeadm_node, kubeadm_run
from tests.support.playbook_modules import kubernetes_objects as objects


class Node:
    """A node whose commands are recorded; files lie below a temporary directory."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.commands: list[list[str]] = []
        self.resets = 0
        self.remains = False
        self.failures = 0
        self.answering = True
        self.root = root
        for name in ("RECORD", "ADMIN", "CONFIG", "PATCHES", "FIRST_TOKEN", "KUBELET_CONF"):
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


# kubeadm's runs for an init in which nothing goes wrong.
INIT = 2


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def test_init_is_done_once(node: Node) -> None:
    assert kubeadm_node.init(PARAMS, RELEASE) == (True, "sha256:new")
    assert kubeadm_node.init(PARAMS, RELEASE) == (False, "sha256:new")
    assert len(node.commands) == INIT
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


def skipped(argv: list[str]) -> set[str]:
    (option,) = [word for word in argv if word.startswith("--skip-phases=")]
    return set(option.partition("=")[2].split(","))


def test_the_api_server_comes_up_alone_and_every_phase_is_done_once(node: Node) -> None:
    kubeadm_node.init(PARAMS, RELEASE)
    first, rest = map(skipped, node.commands)
    assert first & rest == set()
    # As kubeadm 1.37 lists them (`kubeadm init --help`), the parts of control-plane one by one.
    assert first | rest == {
        *("preflight", "certs", "kubeconfig", "etcd", "kubelet-start", "wait-control-plane", "upload-config"),
        *("upload-certs", "mark-control-plane", "bootstrap-token", "kubelet-finalize", "addon", "show-join-command"),
        *(f"control-plane/{part}" for part in ("apiserver", "controller-manager", "scheduler")),
    }
    assert {"control-plane/controller-manager", "control-plane/scheduler", "wait-control-plane"} <= first


def test_a_slow_api_server_costs_no_second_start(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeadm = node.kubeadm

    def slow(argv: list[str], timeout: int) -> None:
        node.failures = 1 if len(node.commands) in (1, 2) else 0
        kubeadm(argv, timeout)

    monkeypatch.setattr(kubeadm_node, "kubeadm", slow)
    kubeadm_node.init(PARAMS, RELEASE)
    assert len(node.commands) == INIT + 2
    assert {"certs", "etcd", "control-plane/apiserver"} <= skipped(node.commands[-1])
    assert node.resets == 0
    assert node.record["role"] == "control-plane"


def test_other_settings_of_a_finished_control_plane_are_refused(node: Node) -> None:
    kubeadm_node.init(PARAMS, RELEASE)
    changed = {**PARAMS, "cluster": {**CLUSTER, "pod_subnet": "10.245.0.0/16"}}
    with pytest.raises(kubeadm_node.NodeError, match="cannot be changed"):
        kubeadm_node.init(changed, RELEASE)
    assert len(node.commands) == INIT


def test_a_later_version_of_this_program_goes_on_with_the_lab(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    kubeadm_node.init(PARAMS, RELEASE)
    documents = kubeadm_node.init_documents

    def later(*arguments: Any) -> Any:
        made = documents(*arguments)
        return [*made, {"kind": "New", "apiVersion": "v1"}]

    monkeypatch.setattr(kubeadm_node, "init_documents", later)
    assert kubeadm_node.init({**PARAMS, "timeout": 61}, RELEASE) == (False, "sha256:new")
    record = {**node.record, "settings": {"version": "1.36.5"}}  # before an upgrade
    (node.root / "record").write_text(json.dumps(record))
    assert kubeadm_node.init(PARAMS, RELEASE) == (False, "sha256:new")


@pytest.mark.parametrize("asked", ["", "1.37", "v1.37.2"])
def test_the_version_on_the_disk_that_is_asked_for_is_taken(node: Node, asked: str) -> None:
    assert kubeadm_node.init({**PARAMS, "cluster": {**CLUSTER, "version": asked}}, RELEASE)[0]


@pytest.mark.parametrize("asked", ["1.31", "1.37.1", "1.2"])
def test_another_version_of_a_finished_lab_is_refused(node: Node, asked: str) -> None:
    kubeadm_node.init(PARAMS, RELEASE)
    changed = {**PARAMS, "cluster": {**CLUSTER, "version": asked}}
    with pytest.raises(kubeadm_node.NodeError, match=r"has Kubernetes 1\.37\.2 on its disk"):
        kubeadm_node.init(changed, RELEASE)
    assert (len(node.commands), node.resets) == (INIT, 0)


def test_a_worker_does_not_join_a_control_plane_of_another_version(node: Node) -> None:
    """Whether the file names the control plane's version or none: the worker's disk is the one to go, so that no
    version that could be written is told as the way out."""
    for asked in ("", "1.37", "1.37.2"):
        newer = {**PARAMS, "cluster": {**CLUSTER, "running": "1.37.2", "version": asked}}
        with pytest.raises(
            kubeadm_node.NodeError, match=r"holds Kubernetes 1\.31\.4, and the control plane runs 1\.37\.2"
        ) as caught:
            kubeadm_node.join(newer, {**RELEASE, "version": "1.31.4"})
        assert "take the worker out of the lab file and provision, then put it back" in str(caught.value)
        assert "write" not in str(caught.value)
    assert (node.commands, node.resets) == ([], 0)


def test_a_worker_with_another_patch_release_than_the_one_asked_for_does_not_join(node: Node) -> None:
    cluster = {**CLUSTER, "running": "1.37.2", "version": "1.37.2"}
    with pytest.raises(kubeadm_node.NodeError, match=r"holds Kubernetes 1\.37\.9, and the control plane runs 1\.37\.2"):
        kubeadm_node.join({**PARAMS, "cluster": cluster}, {**RELEASE, "version": "1.37.9"})


def test_a_lost_admin_kubeconfig_is_made_again_and_nothing_is_reset(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeadm_node.init(PARAMS, {**RELEASE, "version": "1.36.5"})  # upgraded since
    (node.root / "admin").unlink()
    node.remains = True
    asked: list[list[str]] = []
    monkeypatch.setattr(kubeadm_node, "run", lambda argv, timeout: asked.append(argv))
    assert kubeadm_node.init(PARAMS, RELEASE) == (True, "sha256:new")
    assert asked[0][:5] == ["kubeadm", "init", "phase", "kubeconfig", "admin"]
    assert '"kubernetesVersion": "v1.37.2"' in (node.root / "config").read_text()
    assert (len(node.commands), node.resets) == (INIT, 0)

    def failing(argv: list[str], timeout: int) -> None:
        raise kubeadm_node.NodeError("no CA")

    monkeypatch.setattr(kubeadm_node, "run", failing)
    with pytest.raises(kubeadm_node.NodeError, match="nothing was reset"):
        kubeadm_node.init(PARAMS, RELEASE)
    assert node.resets == 0


def test_coredns_is_left_to_kubeadm(node: Node) -> None:
    kubeadm_node.init(PARAMS, RELEASE)
    for command in node.commands:
        assert not any("addon/" in word or "ignore" in word for word in command)


def test_only_one_run_works_on_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeadm_run, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(kubeadm_run.time, "sleep", lambda seconds: None)
    with (
        kubeadm_node.one_at_a_time(1),
        pytest.raises(kubeadm_node.NodeError, match="an earlier run still works on this node"),
        kubeadm_node.one_at_a_time(0.01),
    ):
        pass
    with kubeadm_node.one_at_a_time(0.01):
        assert (tmp_path / "lock").exists()


def test_a_node_that_joins_again_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(kubeadm_node, "run", lambda argv, timeout: asked.append(argv))
    kubeadm_node.forget("cloud-gpu-worker-1")
    (argv,) = asked
    assert argv[3:6] == ["delete", "node", "cloud-gpu-worker-1"]
    assert "--ignore-not-found" in argv


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
    assert node.record == {"format": 1, "role": "worker", "ip": PARAMS["node"]["ip"], "ca_hash": "sha256:new"}


@pytest.mark.parametrize("bootstrapped", [True, False])
def test_a_slow_api_server_does_not_undo_a_join(
    node: Node, monkeypatch: pytest.MonkeyPatch, bootstrapped: bool
) -> None:
    """kubeadm's last step, a patch of the node, has ten seconds."""
    tries: list[list[str]] = []

    def kubeadm(argv: list[str], timeout: int) -> None:
        if bootstrapped:
            (node.root / "kubelet_conf").write_text("signed")
        raise kubeadm_node.NodeError("error uploading crisocket: context deadline exceeded")

    def run(argv: list[str], timeout: int) -> None:
        tries.append(argv)
        if len(tries) == 1:
            raise kubeadm_node.NodeError("timeout")

    monkeypatch.setattr(kubeadm_node, "kubeadm", kubeadm)
    monkeypatch.setattr(kubeadm_node, "run", run)
    if not bootstrapped:
        with pytest.raises(kubeadm_node.NodeError, match="crisocket"):
            kubeadm_node.join(PARAMS, RELEASE)
        assert (tries, node.record) == ([], {})
        return
    assert kubeadm_node.join(PARAMS, RELEASE) == (True, "sha256:new")
    assert len(tries) == 2
    assert tries[0][-2:] == ["cloud-control-plane", f"kubeadm.alpha.kubernetes.io/cri-socket={kubeadm_node.CRI_SOCKET}"]
    assert node.record["role"] == "worker"


@pytest.mark.parametrize(
    ("said", "tries"),
    [
        ("cannot get Node: net/http: request canceled (Client.Timeout or context cancellation while reading body)", 3),
        ("couldn't validate the identity of the API Server: cluster CA found does not match", 1),
    ],
)
def test_a_join_that_asked_a_busy_api_server_once_is_tried_again_from_the_start(
    node: Node, monkeypatch: pytest.MonkeyPatch, said: str, tries: int
) -> None:
    seen: list[str] = []

    def kubeadm(argv: list[str], timeout: int) -> None:
        seen.append((node.root / "config").read_text())
        if len(seen) < 3:
            raise kubeadm_node.NodeError(said)

    def reset() -> None:
        node.resets += 1
        (node.root / "config").unlink()

    monkeypatch.setattr(kubeadm_node, "kubeadm", kubeadm)
    monkeypatch.setattr(kubeadm_node, "reset", reset)
    if tries == 3:
        assert kubeadm_node.join(PARAMS, RELEASE) == (True, "sha256:new")
    else:
        with pytest.raises(kubeadm_node.NodeError, match="does not match"):
            kubeadm_node.join(PARAMS, RELEASE)
    assert (len(seen), node.resets) == (tries, tries - 1)
    assert not (node.root / "config").exists(), "it holds the token"


def test_a_worker_that_joined_with_another_address_joins_again(node: Node) -> None:
    kubeadm_node.join(PARAMS, RELEASE)
    (node.root / "kubelet_conf").write_text("signed")
    assert kubeadm_node.probe(PARAMS, RELEASE) == (False, "sha256:new")
    moved = {**PARAMS, "node": {**PARAMS["node"], "ip": "192.168.200.99"}}
    assert kubeadm_node.probe(moved, RELEASE) == (False, "")
    record = {key: value for key, value in node.record.items() if key != "ip"}
    (node.root / "record").write_text(json.dumps(record))
    assert kubeadm_node.probe(moved, RELEASE) == (False, "sha256:new"), "an older version wrote no address"


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
    labels = {"hyperscaler/role": "cloud-cpu-worker"}
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {"conditions": conditions},
    }


class Kubectl:
    """Answers kubectl from a list of objects and records what changes them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *items: dict[str, Any]) -> None:
        self.items = list(items)
        self.asked = 0
        self.changing: list[tuple[str, ...]] = []
        self.failing: dict[str, str] = {}
        monkeypatch.setattr(objects, "kubectl", self)

    def __call__(self, *words: str, stdin: str | None = None, timeout: int = 0) -> str:
        if words[0] == "get":
            self.asked += 1
            return json.dumps({"items": self.items})
        self.changing.append(words)
        if words[0] in self.failing:
            raise objects.ClusterError(f"kubectl {words[0]}: {self.failing[words[0]]}")
        return ""


@pytest.mark.parametrize(("ready", "verbs"), [(True, ["drain", "delete"]), (False, ["delete"])])
def test_departed_nodes_are_drained_and_deleted(monkeypatch: pytest.MonkeyPatch, ready: bool, verbs: list[str]) -> None:
    kubectl = Kubectl(monkeypatch, cluster_node("a", ready=True), cluster_node("gone", ready=ready))
    present, _ = objects.snapshot()
    assert objects.converge_nodes([{"name": "a"}], present, [], check=False) == ["gone removed"]
    assert [words[0] for words in kubectl.changing] == verbs
    assert all("gone" in words and any("--timeout=" in word for word in words) for words in kubectl.changing)


def test_a_node_that_somebody_joined_by_hand_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = cluster_node("stranger", ready=True)
    stranger["metadata"]["labels"] = {"kubernetes.io/hostname": "stranger"}
    kubectl = Kubectl(monkeypatch, cluster_node("a", ready=True), stranger)
    present, _ = objects.snapshot()
    assert objects.converge_nodes([{"name": "a"}], present, [], check=False) == []
    assert kubectl.changing == []


def test_a_node_that_cannot_be_drained_is_deleted_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch, cluster_node("gone", ready=True))
    kubectl.failing["drain"] = "error: drain did not complete within 1m0s"
    present, _ = objects.snapshot()
    (line,) = objects.converge_nodes([], present, [], check=False)
    assert line == "gone removed, not drained: kubectl drain: error: drain did not complete within 1m0s"
    assert kubectl.changing[-1][:2] == ("delete", "node")


def test_a_node_that_a_killed_run_cordoned_takes_pods_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kept, foreign = cluster_node("kept", ready=True), cluster_node("foreign", ready=True)
    kept["metadata"]["annotations"] = {objects.DRAINING: "true"}
    foreign["spec"]["unschedulable"] = kept["spec"]["unschedulable"] = True
    kubectl = Kubectl(monkeypatch, kept, foreign)
    present, _ = objects.snapshot()
    nodes = [{"name": "kept"}, {"name": "foreign"}]
    assert objects.converge_nodes(nodes, present, [], check=False) == ["kept takes pods again"]
    ((verb, _, name, _, _, patch),) = kubectl.changing
    assert (verb, name) == ("patch", "kept")
    assert json.loads(patch)["spec"] == {"unschedulable": None}


def test_pods_of_jobs_and_failed_ones_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = Kubectl(monkeypatch)
    objects.watch_until_ready([], ["ingress-nginx"], 10)
    (words,) = kubectl.changing
    assert "--selector=!job-name" in words
    assert "--field-selector=status.phase!=Failed" in words
    assert "--all" not in words


def nodes_of(hosts: dict[str, Any], *, taint: bool) -> list[dict[str, Any]]:
    environment = jinja2.Environment()  # noqa: S701  JSON, not HTML
    environment.filters["to_json"] = json.dumps
    environment.tests["failed"] = lambda result: result.get("failed", False)
    text = (PLAYBOOKS / "roles/k8s_addons/templates/nodes.json.j2").read_text()
    values = {"groups": {"cloud": list(hosts)}, "hostvars": hosts, "kubernetes_taint_gpu_workers": taint}
    found: list[dict[str, Any]] = json.loads(environment.from_string(text).render(values))
    return found


@pytest.mark.parametrize("taint", [True, False])
@pytest.mark.parametrize(
    ("role", "gpus"),
    [("cloud-cpu-worker", []), ("cloud-gpu-worker", []), ("cloud-gpu-worker", [{}]), ("cloud-cpu-worker", [{}])],
)
def test_a_worker_joins_with_the_taints_that_it_keeps(taint: bool, role: str, gpus: list[Any]) -> None:
    """Set afterwards, they would come too late for pods that are to stay away."""
    host = {"node_role": role, "node_gpus": gpus}
    (kept,) = nodes_of({"worker": host}, taint=taint)
    values = {**yaml.safe_load((PLAYBOOKS / "roles/k8s_worker/vars/main.yml").read_text()), **host}
    values["kubernetes_taint_gpu_workers"] = taint
    values = {key: trust_as_template(value) if isinstance(value, str) else value for key, value in values.items()}
    templar = Templar(loader=DataLoader(), variables=values)
    assert templar.template(values["kubernetes_worker_taints"]) == kept["taints"]
    tasks = yaml.safe_load((PLAYBOOKS / "roles/k8s_worker/tasks/main.yml").read_text())
    (join,) = [task["kubeadm_node"] for task in tasks if task.get("kubeadm_node", {}).get("action") == "join"]
    assert "kubernetes_worker_taints" in join["node"]


@pytest.mark.parametrize(
    ("member_of", "objects_task", "joins"),
    [
        ("sha256:1", {"known": ["other", "worker"]}, False),
        ("sha256:1", {"known": ["other"]}, True),
        ("sha256:2", {"known": ["worker"]}, True),
        ("", {"known": []}, True),
        ("sha256:1", {"failed": True}, False),
        ("sha256:1", None, False),
        ("", None, True),
    ],
)
def test_a_worker_that_the_control_plane_does_not_know_joins_anew(
    member_of: str, objects_task: dict[str, Any] | None, joins: bool
) -> None:
    head = {"kubernetes_member": {"ca_hash": "sha256:1"}}
    if objects_task is not None:
        head["kubernetes_own_objects"] = objects_task
    values: dict[str, Any] = yaml.safe_load((PLAYBOOKS / "roles/k8s_worker/vars/main.yml").read_text())
    values = {key: trust_as_template(value) for key, value in values.items()}
    values |= {
        "inventory_hostname": "worker",
        "kubernetes_control_plane": "head",
        "hostvars": {"head": head},
        "kubernetes_worker_member": {"ca_hash": member_of},
    }
    templar = Templar(loader=DataLoader(), variables=values)
    assert templar.evaluate_conditional(trust_as_template("kubernetes_must_join")) is joins
    tasks = yaml.safe_load((PLAYBOOKS / "roles/k8s_control_plane/tasks/main.yml").read_text())
    (own,) = [task for task in tasks if task.get("register") == "kubernetes_own_objects"]
    assert own["kubernetes_objects"]["known"] == "{{ groups['cloud_workers'] | default([]) }}"


def test_a_worker_that_failed_to_join_is_not_waited_for() -> None:
    worker = {"node_role": "cloud-cpu-worker", "node_gpus": []}
    hosts = {
        "head": {"node_role": "cloud-control-plane", "node_gpus": []},
        "joined": {**worker, "kubernetes_join": {"changed": True}},
        "member": {**worker, "kubernetes_join": {"skipped": True}},
        "failed": {**worker, "kubernetes_join": {"failed": True}},
        "unreachable": worker,
    }
    nodes = nodes_of(hosts, taint=False)
    # All of them stay nodes of the lab: one that only failed in this run is not to be drained.
    assert [node["name"] for node in nodes] == list(hosts)
    assert [node["name"] for node in nodes if node["joined"]] == ["head", "joined", "member"]


def test_a_ready_cluster_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = {
        "kind": "DaemonSet",
        "metadata": {"name": "kube-proxy", "namespace": "kube-system", "generation": 1},
        "status": {"observedGeneration": 1, "desiredNumberScheduled": 1, "numberReady": 1},
    }
    stranger = {"kind": "Deployment", "metadata": {"name": "web", "namespace": "default", "generation": 1}, "spec": {}}
    kubectl = Kubectl(monkeypatch, cluster_node("a", ready=True), daemon, stranger)
    seen = objects.snapshot()
    objects.wait_ready(["a"], ["kube-system"], seen, 10)
    assert (kubectl.asked, kubectl.changing) == (1, [])
    assert objects.waiting_for(["b"], ["kube-system"], *seen) == ["node b has not registered"]


@pytest.mark.parametrize("ready_after", [1, 2, 15])
def test_a_pod_that_went_while_it_was_waited_for_costs_a_minute(
    monkeypatch: pytest.MonkeyPatch, ready_after: int
) -> None:
    """kubectl waits for a deleted pod, of a node that left, to the end of its time."""
    clock, looks, watched = [0.0], [0], []

    def kubectl(*words: str, timeout: float = 60) -> str:
        [given] = [int(word.removeprefix("--timeout=").removesuffix("s")) for word in words if "--timeout=" in word]
        assert timeout > given
        watched.append(given)
        clock[0] += given
        raise objects.ClusterError("timed out waiting for the condition on pods/kube-proxy-gone")

    def snapshot() -> tuple[dict[str, Any], list[Any]]:
        looks[0] += 1
        return ({"a": cluster_node("a", ready=looks[0] >= ready_after)}, [])

    monkeypatch.setattr(objects, "kubectl", kubectl)
    monkeypatch.setattr(objects, "snapshot", snapshot)
    monkeypatch.setattr(objects.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(objects.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    absent: tuple[dict[str, Any], list[Any]] = ({}, [])
    if ready_after > 14:
        with pytest.raises(
            objects.ClusterError, match="not ready after 600 s, the last 540 s of them without progress: node a"
        ):
            objects.wait_ready(["a"], ["kube-system"], absent, 600)
        return
    objects.wait_ready(["a"], ["kube-system"], absent, 600)
    assert watched == [60] * ready_after
    assert clock[0] == 60 * ready_after


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
