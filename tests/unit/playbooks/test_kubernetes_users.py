"""The module kubernetes_users against a cluster of objects: who gets what, what goes, and that a second run is idle."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.support.playbook_modules import PLAYBOOKS, kubernetes_apply, load, user_end

COMMON = yaml.safe_load((PLAYBOOKS / "roles/k8s_common/vars/main.yml").read_text())
ROLE, LABELS = COMMON["kubernetes_student_role"], COMMON["kubernetes_student_labels"]
LIMITS = [{"type": "Container", "default": {"cpu": "1"}}]
QUOTA = {"pods": "20", "requests.cpu": "2", "requests.nvidia.com/mig-1g.10gb": "1"}


users = load("library/kubernetes_users.py", "kubernetes_users")


class Cluster:
    """An API server that keeps objects, adds what real ones add, and knows the verbs that the module may use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.calls: list[tuple[str, ...]] = []
        self.ended: list[str] = []
        self.pods: dict[str, list[str]] = {}
        self.endless = False
        self.flow_kinds = ["FlowSchema", "PriorityLevelConfiguration"]
        monkeypatch.setattr(users, "kubectl", self)
        monkeypatch.setattr(kubernetes_apply, "kubectl", self)
        clock = itertools.count(step=5)
        monkeypatch.setattr(user_end, "time", SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda _: None))

    def __call__(self, *words: str, stdin: str | None = None, timeout: int = 300) -> str:
        self.calls.append(words)
        verb = words[0]
        where = words[words.index("--namespace") + 1] if "--namespace" in words else ""
        if words[:2] == ("get", "pods"):
            return "\n".join(self.pods.get(where, []))
        if verb == "patch" and words[1] == "resourcequota":
            for change in json.loads(words[words.index("--patch") + 1]):
                assert (change["op"], change["path"]) == ("replace", "/spec/hard")
                self.objects[("ResourceQuota", where, words[2])]["spec"]["hard"] = change["value"]
            return ""
        if verb == "patch":
            assert words[1] in self.pods[where]
            return ""
        if verb == "label":
            key, value = words[-1].split("=")
            self.objects[("ResourceQuota", where, words[2])]["metadata"]["labels"][key] = value
            return ""
        if words[:2] in (("delete", "secrets"), ("delete", "serviceaccounts")):
            return ""
        if words[:2] == ("get", "--raw"):
            return json.dumps({"resources": [{"kind": kind} for kind in self.flow_kinds]})
        if verb == "get":
            assert words[words.index("--selector") :][:2] == ("--selector", "hyperscaler/user")
            return json.dumps({"items": [item for item in self.objects.values() if self._labelled(item)]})
        if verb == "delete" and "--all" in words:
            closed = self.objects[("ResourceQuota", where, "hyperscaler")]["spec"]["hard"]
            assert closed == {"pods": "0"}, "nothing new begins while the old is ended"
            assert "--grace-period=1" in words
            self.ended.append(where)
            if not self.endless:
                self.pods.pop(where, None)
            return ""
        if verb == "delete":
            kinds = {kind.lower(): kind for kind in (*users.GRANTS, "FlowSchema", "NetworkPolicy")}
            namespace = words[words.index("--namespace") + 1] if "--namespace" in words else ""
            del self.objects[(kinds[words[1]], namespace, words[2])]
            return ""
        assert stdin is not None
        for item in json.loads(stdin)["items"]:
            self._put(verb, item)
        return "created" if verb == "create" else ""

    def _labelled(self, item: dict[str, Any]) -> bool:
        return "hyperscaler/user" in item["metadata"].get("labels", {})

    def _put(self, verb: str, item: dict[str, Any]) -> None:
        key = users.key_of(item)
        there = key in self.objects
        if verb == "create" and there:
            raise users.ClusterError(f"Error from server (AlreadyExists): {key}")
        assert verb != "replace" or there
        stored = copy.deepcopy(item)
        stored["metadata"]["uid"] = "1"
        if item["kind"] == "Namespace":
            stored["spec"] = {"finalizers": ["kubernetes"]}
        self.objects[key] = stored

    def kinds(self) -> list[tuple[str, str, str]]:
        return sorted(self.objects)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def entry(name: str, role: str = "student") -> dict[str, str]:
    return {"name": name, "role": role, "namespace": f"student-{name}"}


def converge(
    *present: dict[str, str],
    former: tuple[str, ...] = (),
    isolate: bool = False,
    peers: list[dict[str, Any]] | None = None,
    check: bool = False,
) -> Any:
    params = {
        "users": list(present),
        "former": [{"name": name, "namespace": f"student-{name}"} for name in former],
        "accounts_namespace": "hyperscaler-users",
        "quota": QUOTA,
        "limits": LIMITS,
        "labels": LABELS,
        "student_role": ROLE,
        "isolate": isolate,
        "ingress_peers": peers or [],
    }
    return users.converge(params, check=check)


ADA = [
    ("ClusterRole", "", "hyperscaler:student"),
    ("FlowSchema", "", "hyperscaler-student-ada"),
    ("LimitRange", "student-ada", "hyperscaler"),
    ("Namespace", "", "hyperscaler-users"),
    ("Namespace", "", "student-ada"),
    ("ResourceQuota", "student-ada", "hyperscaler"),
    ("ResourceQuota", "student-ada", "hyperscaler-priority"),
    ("RoleBinding", "student-ada", "hyperscaler-student"),
    ("ServiceAccount", "hyperscaler-users", "ada"),
]


def test_a_student_gets_a_namespace_with_limits_and_no_more(cluster: Cluster) -> None:
    assert converge(entry("ada"))
    assert cluster.kinds() == ADA
    binding = cluster.objects[("RoleBinding", "student-ada", "hyperscaler-student")]
    assert binding["roleRef"]["name"] == "hyperscaler:student"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "ada", "namespace": "hyperscaler-users"}]
    assert cluster.objects[("ResourceQuota", "student-ada", "hyperscaler")]["spec"]["hard"] == QUOTA
    assert cluster.objects[("LimitRange", "student-ada", "hyperscaler")]["spec"]["limits"] == LIMITS
    labels = cluster.objects[("Namespace", "", "student-ada")]["metadata"]["labels"]
    assert labels == {"hyperscaler/user": "ada", **LABELS}
    assert labels["pod-security.kubernetes.io/enforce"] == "baseline"


def test_a_second_run_only_looks(cluster: Cluster) -> None:
    converge(entry("ada"), entry("bob", "admin"), isolate=True)
    cluster.calls.clear()
    assert converge(entry("ada"), entry("bob", "admin"), isolate=True) == []
    assert [words[0] for words in cluster.calls] == ["get"]


def test_an_admin_has_the_cluster(cluster: Cluster) -> None:
    converge(entry("bob", "admin"))
    assert cluster.kinds() == [
        ("ClusterRoleBinding", "", "hyperscaler:admin:bob"),
        ("Namespace", "", "hyperscaler-users"),
        ("ServiceAccount", "hyperscaler-users", "bob"),
    ]


def test_an_admin_who_becomes_a_student_is_one(cluster: Cluster) -> None:
    converge(entry("ada", "admin"))
    converge(entry("ada"))
    assert cluster.kinds() == ADA


def test_revoked_access_leaves_what_is_stored_and_nothing_that_runs(cluster: Cluster) -> None:
    converge(entry("ada"), entry("eve"))
    assert converge(entry("eve"), former=("ada",))
    left = [key for key in cluster.kinds() if "ada" in " ".join(key)]
    assert left == [
        ("LimitRange", "student-ada", "hyperscaler"),
        ("Namespace", "", "student-ada"),
        ("ResourceQuota", "student-ada", "hyperscaler"),
        ("ResourceQuota", "student-ada", "hyperscaler-priority"),
    ]
    assert cluster.ended == ["student-ada"]
    assert cluster.objects[("ResourceQuota", "student-ada", "hyperscaler")]["spec"]["hard"] == {"pods": "0"}
    assert converge(entry("eve"), former=("ada",)) == []
    # Taken before anything else is done: a run that dies then has left nobody in.
    verbs = [words[:2] for words in cluster.calls if words[0] != "get"]
    first_end = next(number for number, words in enumerate(verbs) if words[1] == user_end.WORKLOADS)
    taken = {words[1] for words in verbs[first_end - 6 : first_end - 3]}
    assert taken == {"flowschema", "rolebinding", "serviceaccount"}
    # Then the place is closed to anything new, and only then emptied.
    assert [words[1] for words in verbs[first_end - 3 : first_end]] == ["resourcequota", "secrets", "serviceaccounts"]


def test_granted_again_the_namespace_opens_again(cluster: Cluster) -> None:
    converge(entry("ada"))
    converge(former=("ada",))
    converge(entry("ada"))
    assert cluster.kinds() == ADA
    assert cluster.objects[("ResourceQuota", "student-ada", "hyperscaler")]["spec"]["hard"] == QUOTA


def test_a_pod_that_does_not_end_is_named_and_looked_for_again(cluster: Cluster) -> None:
    converge(entry("ada"))
    cluster.pods["student-ada"], cluster.endless = ["pod/stubborn"], True
    with pytest.raises(users.ClusterError, match="these do not end in student-ada: pod/stubborn"):
        converge(former=("ada",))
    # Finalizers that the student put there are taken away.
    assert ("patch", "pod/stubborn") in [words[:2] for words in cluster.calls]
    assert ("RoleBinding", "student-ada", "hyperscaler-student") not in cluster.objects
    cluster.endless = False
    assert converge(former=("ada",)) == ["closed student-ada"]
    assert cluster.pods == {}
    assert converge(former=("ada",)) == []


@pytest.mark.parametrize("died_after", range(1, 10))
def test_a_run_that_died_is_finished_by_the_next(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, died_after: int
) -> None:
    converge(entry("ada"))
    whole, left = Cluster.__call__, died_after

    def dying(self: Cluster, *words: str, **rest: Any) -> str:
        nonlocal left
        left -= 1
        if left < 0:
            raise users.ClusterError("killed")
        return whole(self, *words, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "__call__", dying)
        with contextlib.suppress(users.ClusterError):
            converge(former=("ada",))
    converge(former=("ada",))
    assert "student-ada" in cluster.ended
    assert ("RoleBinding", "student-ada", "hyperscaler-student") not in cluster.objects
    assert converge(former=("ada",)) == []


def test_a_former_user_who_never_had_a_namespace_gets_none(cluster: Cluster) -> None:
    converge(entry("bob", "admin"))
    converge(former=("bob",))
    assert cluster.kinds() == [("Namespace", "", "hyperscaler-users")]


def test_a_namespace_of_somebody_else_is_refused(cluster: Cluster) -> None:
    foreign = {"kind": "Namespace", "metadata": {"name": "student-ada"}, "apiVersion": "v1"}
    cluster.objects[users.key_of(foreign)] = foreign
    with pytest.raises(users.ClusterError, match="AlreadyExists"):
        converge(entry("ada"))
    assert cluster.objects[("Namespace", "", "student-ada")] == foreign
    assert ("RoleBinding", "student-ada", "hyperscaler-student") not in cluster.objects


@pytest.mark.parametrize("theirs", [True, False])
def test_after_a_second_try_the_mark_says_whose_a_namespace_is(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, *, theirs: bool
) -> None:
    """kubectl's wrapper takes what is there for what a first try made that was not answered."""
    foreign = {"kind": "Namespace", "metadata": {"name": "student-ada"}, "apiVersion": "v1"}
    if theirs:
        cluster.objects[users.key_of(foreign)] = foreign

    def slow(*words: str, stdin: str | None = None, timeout: int = 300) -> str:
        if words[0] != "create":
            return cluster(*words, stdin=stdin, timeout=timeout)
        for item in json.loads(stdin or "")["items"]:
            if users.key_of(item) not in cluster.objects:
                cluster._put("create", item)
        return ""

    monkeypatch.setattr(users, "kubectl", slow)
    if theirs:
        with pytest.raises(users.ClusterError, match=r"not the lab's, .* Namespace student-ada"):
            converge(entry("ada"))
        assert cluster.objects[("Namespace", "", "student-ada")] == foreign
    else:
        converge(entry("ada"))
    assert (("RoleBinding", "student-ada", "hyperscaler-student") in cluster.objects) is not theirs


def test_pods_of_a_student_never_take_the_place_of_the_system_s(cluster: Cluster) -> None:
    converge(entry("ada"))
    spec = cluster.objects[("ResourceQuota", "student-ada", "hyperscaler-priority")]["spec"]
    assert spec["hard"] == {"pods": "0"}
    (match,) = spec["scopeSelector"]["matchExpressions"]
    assert (match["scopeName"], match["operator"]) == ("PriorityClass", "In")
    assert set(match["values"]) == {"system-node-critical", "system-cluster-critical"}


def test_a_role_that_an_older_version_gave_is_taken(cluster: Cluster) -> None:
    """What a binding binds to cannot be changed, so that the new one is another."""
    old = users.binding("RoleBinding", "hyperscaler", "ada", "edit", "hyperscaler-users", "student-ada")
    cluster.objects[users.key_of(old)] = old
    changes = converge(entry("ada"))
    assert "removed RoleBinding student-ada hyperscaler" in changes
    assert cluster.kinds() == ADA


def test_a_student_does_not_write_what_isolates_them() -> None:
    reading = {"get", "list", "watch"}
    for rule in ROLE["rules"]:
        if {"networkpolicies", "endpoints", "endpointslices", "resourcequotas", "limitranges"} & set(rule["resources"]):
            assert set(rule["verbs"]) == reading, rule
        assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"]
    written = {name for rule in ROLE["rules"] if "create" in rule["verbs"] for name in rule["resources"]}
    assert written >= {"pods", "pods/exec", "services", "deployments", "jobs", "ingresses", "persistentvolumeclaims"}


def test_what_was_edited_by_hand_is_put_back(cluster: Cluster) -> None:
    converge(entry("ada"))
    key = ("ResourceQuota", "student-ada", "hyperscaler")
    cluster.objects[key]["spec"]["hard"]["requests.cpu"] = "64"
    assert converge(entry("ada")) == ["ResourceQuota student-ada hyperscaler"]
    assert cluster.objects[key]["spec"]["hard"] == QUOTA


def test_pods_of_a_student_are_isolated_where_the_lab_says_so(cluster: Cluster) -> None:
    converge(entry("ada"), isolate=True)
    policy = cluster.objects[("NetworkPolicy", "student-ada", "default-deny")]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]


def test_check_mode_changes_nothing(cluster: Cluster) -> None:
    assert converge(entry("ada"), check=True)
    assert cluster.kinds() == []


def test_names_are_asked_for_at_the_cluster_s_dns_alone(cluster: Cluster) -> None:
    converge(entry("ada"), isolate=True)
    rules = cluster.objects[("NetworkPolicy", "student-ada", "default-deny")]["spec"]["egress"]
    (dns,) = [rule for rule in rules if "ports" in rule]
    assert {port["port"] for port in dns["ports"]} == {53}
    (to,) = dns["to"]
    assert to["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kube-system"}
    assert to["podSelector"]["matchLabels"] == {"k8s-app": "kube-dns"}


def test_isolation_ends_when_the_file_no_longer_asks_for_it(cluster: Cluster) -> None:
    converge(entry("ada"), isolate=True)
    assert converge(entry("ada")) == ["removed NetworkPolicy student-ada default-deny"]
    assert converge(entry("ada")) == []


def test_requests_of_a_student_and_of_their_pods_wait_for_each_other_alone(cluster: Cluster) -> None:
    converge(entry("ada"), entry("bob", "admin"))
    flows = [item for key, item in cluster.objects.items() if key[0] == "FlowSchema"]
    (spec,) = [item["spec"] for item in flows]
    assert spec["priorityLevelConfiguration"] == {"name": "hyperscaler-students"}
    # Kubernetes' own for all accounts is 9000, those for its own parts are at most 900.
    assert 900 < spec["matchingPrecedence"] < 9000
    (rule,) = spec["rules"]
    assert rule["subjects"] == [
        {"kind": "ServiceAccount", "serviceAccount": {"namespace": "hyperscaler-users", "name": "ada"}},
        {"kind": "Group", "group": {"name": "system:serviceaccounts:student-ada"}},
    ]


@pytest.mark.parametrize("kinds", [[], None])
def test_without_flow_control_of_this_version_a_student_has_all_the_rest(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, kinds: list[str] | None
) -> None:
    cluster.flow_kinds = kinds or []
    if kinds is None:
        whole = cluster.__call__

        def unknown(*words: str, **rest: Any) -> str:
            if words[:2] == ("get", "--raw"):
                raise users.ClusterError(
                    "Error from server (NotFound): the server could not find the requested resource"
                )
            return whole(*words, **rest)

        monkeypatch.setattr(kubernetes_apply, "kubectl", unknown)
    assert converge(entry("ada"))
    assert cluster.kinds() == [key for key in ADA if key[0] != "FlowSchema"]
    assert converge(entry("ada")) == []


def test_tokens_that_a_student_made_end_with_the_accounts_they_are_for(cluster: Cluster) -> None:
    converge(entry("ada"))
    converge(former=("ada",))
    assert ("delete", "serviceaccounts", "--all", "--namespace", "student-ada", "--wait=false") in cluster.calls
