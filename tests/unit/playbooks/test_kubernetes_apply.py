"""Objects that the playbook applies: what counts as a change, what runs once, what is deleted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.playbook_modules import kubernetes_apply as apply


def crd(version: str = "1", **changes: Any) -> dict[str, Any]:
    meta = {"name": "pools.example.org", "resourceVersion": version, "generation": int(version)}
    spec = {"group": "example.org", **changes}
    return {"kind": "CustomResourceDefinition", "metadata": meta, "spec": spec, "status": {"seen": version}}


class Cluster:
    """Answers `kubectl get -f` from what it has, and `kubectl apply` with what it is told to have afterwards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *items: dict[str, Any]) -> None:
        self.before = list(items)
        self.after = list(items)
        self.sent: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.deleted: list[tuple[str, ...]] = []
        monkeypatch.setattr(apply, "kubectl", self)

    def __call__(self, *words: str, stdin: str | None = None, timeout: int = 0) -> str:
        self.calls.append((words[0], stdin or ""))
        if words[0] == "delete":
            self.deleted.append(words)
            return ""
        if words[0] == "apply":
            self.sent.append(stdin or "")
        items = self.before if words[0] == "get" else self.after
        return json.dumps({"kind": "List", "items": items}) if items else ""


def applied(*arguments: Any) -> list[str]:
    """What changed."""
    changed: list[str] = apply.apply(*arguments, check=False)[0]
    return changed


def test_nodes_are_looked_for_beside_the_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"kind": "Node", "metadata": {"name": "worker-1", "resourceVersion": "1"}}
    cluster = Cluster(monkeypatch, there)
    assert apply.apply(["kind: x"], [], [], ["worker-1", "worker-2"], check=True) == ([], ["worker-1"])
    (asked,) = [text for verb, text in cluster.calls if verb == "get"]
    documents = list(yaml.safe_load_all(asked))
    assert [item["metadata"] for item in documents if item["kind"] == "Node"] == [
        {"name": "worker-1"},
        {"name": "worker-2"},
    ]
    # Nodes are never applied.
    assert not any("worker-1" in text for verb, text in cluster.calls if verb == "apply")
    assert apply.apply(["kind: x"], [], [], check=True) == ([], [])


def record(**data: str) -> dict[str, Any]:
    return {**apply.RECORD, "data": data}


def addon(tmp_path: Path, text: str) -> dict[str, Any]:
    (tmp_path / "x.yaml").write_text(text)
    return {"name": "x", "path": str(tmp_path / "x.yaml"), "edits": []}


def test_a_patch_that_comes_to_nothing_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    # kubectl says "configured" for it, and the API server counts a version on.
    cluster = Cluster(monkeypatch, crd("1"))
    cluster.after = [crd("2")]
    assert applied(["kind: CustomResourceDefinition"], [], []) == []
    cluster.after = [crd("2", scope="Cluster")]
    changes = applied(["kind: CustomResourceDefinition"], [], [])
    assert changes == ["customresourcedefinition/pools.example.org changed"]
    cluster.before = []
    assert applied(["kind: x"], [], []) == ["customresourcedefinition/pools.example.org created"]


def test_jobs_of_an_addon_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "kind: Deployment\nmetadata: {name: a}\n---\nkind: Job\nmetadata: {name: b}\n"
    cluster = Cluster(monkeypatch)
    apply.apply([], [addon(tmp_path, text)], [], check=False)
    assert "kind: Job" in cluster.sent[0]
    written = yaml.safe_load(cluster.sent[1])
    assert list(written["data"]) == ["x"]
    cluster.before, cluster.sent = [written], []
    assert applied([], [addon(tmp_path, text)], []) == []
    (sent,) = cluster.sent
    assert "kind: Deployment" in sent
    assert "kind: Job" not in sent


def test_a_kept_addon_goes_on_where_it_was_applied_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {**addon(tmp_path, "kind: DaemonSet\nmetadata: {name: a}\n"), "kept": True}
    cluster = Cluster(monkeypatch)
    apply.apply(["kind: x"], [kept], [], check=False)
    assert not [text for text in cluster.sent if "DaemonSet" in text]
    cluster.before, cluster.sent = [record(x="0")], []
    apply.apply(["kind: x"], [kept], [], check=False)
    assert "DaemonSet" in cluster.sent[0], "a newer version of the program has another manifest"
    # The image of a lab of an earlier version has none.
    cluster.before, cluster.sent = [], []
    apply.apply(["kind: x"], [{**kept, "path": str(tmp_path / "none.yaml")}], [], check=False)


def test_an_addon_that_left_the_file_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, record(calico="0", **{"ingress-nginx": "0"}))
    with pytest.raises(apply.ClusterError, match="calico, ingress-nginx was installed"):
        apply.apply(["kind: x"], [], [], check=False)
    assert cluster.sent == []


def test_objects_alone_leave_the_addons_of_a_cluster_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, record(traefik="0"))
    apply.apply(["kind: x"], None, [], check=False)
    assert len(cluster.sent) == 1, "the record of add-ons is not written"


def policy(labels: dict[str, str]) -> dict[str, Any]:
    return {"kind": "NetworkPolicy", "metadata": {"name": "default-deny", "namespace": "default", "labels": labels}}


@pytest.mark.parametrize(
    ("labels", "more", "gone"), [(apply.OURS, {}, True), ({}, {}, False), ({}, {"unmarked": True}, True)]
)
def test_only_objects_of_ours_are_deleted(
    monkeypatch: pytest.MonkeyPatch, labels: dict[str, str], more: dict[str, Any], gone: bool
) -> None:
    entry = {
        **more,
        "api_version": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "namespace": "default",
        "name": "default-deny",
    }
    cluster = Cluster(monkeypatch, policy(labels))
    changes = applied(["kind: x"], [], [entry])
    assert (changes == ["networkpolicy/default-deny deleted in default"]) is gone
    assert bool(cluster.deleted) is gone


def test_json_and_yaml_are_told_apart_by_a_line_before_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """kubectl takes a text that begins with a brace for JSON alone."""
    cluster = Cluster(monkeypatch)
    applied(['{"kind": "One"}', "kind: Two\n---\nkind: Three\n"], [], [])
    assert cluster.sent[0].startswith("---\n")
    for _, text in cluster.calls:
        kinds = [each["kind"] for each in yaml.safe_load_all(text)]
        assert kinds[:3] == ["One", "Two", "Three"]


def test_only_kinds_that_the_api_server_serves_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    group, other = "admissionregistration.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1"
    serving = {f"/apis/{group}": ["ValidatingAdmissionPolicy"]}
    asked = []

    def kubectl(*words: str, **_: Any) -> str:
        assert words[:2] == ("get", "--raw")
        asked.append(words[2])
        if words[2] not in serving:
            raise apply.ClusterError("kubectl get: Error from server (NotFound): the server could not find it")
        return json.dumps({"resources": [{"kind": kind} for kind in serving[words[2]]]})

    monkeypatch.setattr(apply, "kubectl", kubectl)
    kinds = (
        (group, "ValidatingAdmissionPolicy"),
        (group, "MutatingAdmissionPolicy"),
        (other, "FlowSchema"),
        (group, "MutatingAdmissionPolicy"),
    )
    items = [{"apiVersion": version, "kind": kind} for version, kind in kinds]
    assert apply.served(items) == (items[:1], ["FlowSchema", "MutatingAdmissionPolicy"])
    assert len(asked) == 2, "one question for each version of a group"
    assert apply.served([]) == ([], [])


def test_an_api_server_that_does_not_answer_is_no_one_without_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    def kubectl(*words: str, **_: Any) -> str:
        raise apply.ClusterError("The connection to the server was refused")

    monkeypatch.setattr(apply, "kubectl", kubectl)
    with pytest.raises(apply.ClusterError, match="refused"):
        apply.served([{"apiVersion": "a/v1", "kind": "B"}])


@pytest.mark.parametrize("verb", ["apply", "create", "replace"])
def test_objects_are_sent_without_fetching_the_schema(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """Whoever sends them: add-ons, users, certificates."""
    server = SlowServer(monkeypatch, "done")
    apply.kubectl(verb, "-f", "-", stdin="{}")
    assert server.argv[3:] == [verb, "--validate=false", "-f", "-"]


@pytest.mark.parametrize("verb", ["get", "delete", "label", "taint", "patch", "drain", "wait"])
def test_what_sends_nothing_knows_no_validation(monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    server = SlowServer(monkeypatch, "done")
    apply.kubectl(verb, "x")
    assert server.argv[3:] == [verb, "x"]


class SlowServer:
    """In the place of the program kubectl: gives one answer after the other, and the last one for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
        self.answers, self.asked = list(answers), 0
        self.argv: list[str] = []
        self.slept: list[float] = []
        monkeypatch.setattr(apply.subprocess, "run", self)
        monkeypatch.setattr(apply.time, "sleep", self.slept.append)

    def __call__(self, argv: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked, self.argv = self.asked + 1, argv
        return subprocess.CompletedProcess(argv, int(answer != "done"), answer, "" if answer == "done" else answer)


@pytest.mark.parametrize(
    "slow",
    [
        "Error from server: etcdserver: request timed out",
        "Unable to connect to the server: net/http: TLS handshake timeout",
        "The connection to the server 192.168.200.10:6443 was refused: dial tcp: connect: connection refused",
        "Error from server (Timeout): Timeout: request did not complete within requested timeout",
    ],
)
def test_a_request_that_a_busy_node_was_too_slow_for_is_made_again(monkeypatch: pytest.MonkeyPatch, slow: str) -> None:
    server = SlowServer(monkeypatch, slow, slow, "done")
    assert apply.kubectl("label", "node", "x", "a=b", "--overwrite") == "done"
    assert server.asked == 3
    assert sorted(server.slept) == server.slept and len(server.slept) == 2


def test_a_server_that_stays_away_is_an_error_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SlowServer(monkeypatch, "Error from server: etcdserver: request timed out")
    with pytest.raises(apply.ClusterError, match=r"kubectl label node x: .*request timed out"):
        apply.kubectl("label", "node", "x", "a=b")
    assert server.asked == 5


def test_what_the_cluster_refuses_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    server = SlowServer(monkeypatch, 'Error from server (Forbidden): pods "x" is forbidden')
    with pytest.raises(apply.ClusterError, match="Forbidden"):
        apply.kubectl("apply", "-f", "-", stdin="{}")
    assert server.asked == 1


def test_what_a_request_without_an_answer_has_made_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    there = 'Error from server (AlreadyExists): namespaces "student-ada" already exists'
    slow = "Error from server: etcdserver: request timed out"
    SlowServer(monkeypatch, slow, there)
    assert apply.kubectl("create", "-f", "-", stdin="{}") == ""
    SlowServer(monkeypatch, there)
    with pytest.raises(apply.ClusterError, match="AlreadyExists"):
        apply.kubectl("create", "-f", "-", stdin="{}")
    SlowServer(monkeypatch, slow, f"{there}\nError from server (Forbidden): no")
    with pytest.raises(apply.ClusterError, match="Forbidden"):
        apply.kubectl("create", "-f", "-", stdin="{}")
