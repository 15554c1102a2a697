"""What pods of students may do, to their node and to each other."""

from __future__ import annotations

import json
from typing import Any

import jinja2
import yaml

from emulator.guests.verify.kubeconfigs import STUDENT
from emulator.kubernetes.config.users import USERS_NAMESPACE
from tests.support.playbook_modules import PLAYBOOKS, load
from tests.support.playbook_modules import kubernetes_apply as apply


def rendered(name: str, **values: Any) -> list[dict[str, Any]]:
    environment = jinja2.Environment()  # noqa: S701  YAML, not HTML
    environment.filters["to_json"] = json.dumps
    text = (PLAYBOOKS / "roles/k8s_control_plane/templates" / name).read_text()
    return [document for document in yaml.safe_load_all(environment.from_string(text).render(values)) if document]


def role_vars(role: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PLAYBOOKS / f"roles/{role}/vars/main.yml").read_text())
    return found


users = load("library/kubernetes_users.py", "kubernetes_users")
QUOTA = {"pods": "20", "requests.cpu": "2"}


def students(policy: str) -> list[dict[str, Any]]:
    values = {**role_vars("k8s_common"), **role_vars("k8s_control_plane"), "kubernetes_student_quota": QUOTA}
    names = (
        "kubernetes_student_labels",
        "kubernetes_default_deny",
        "kubernetes_student_role",
        "kubernetes_student_quota",
    )
    return rendered("students.yaml.j2", kubernetes_network_policy=policy, **{name: values[name] for name in names})


def test_the_namespace_of_all_has_the_limits_of_each() -> None:
    documents = students("none")
    params = {
        "users": [{"name": "ada", "role": "student", "namespace": "students"}],
        "accounts_namespace": "hyperscaler-users",
        "quota": QUOTA,
        "student_role": role_vars("k8s_common")["kubernetes_student_role"],
        "isolate": False,
    }
    each = {(item["kind"], item["metadata"]["name"]): item for item in users.wanted_objects(params)}
    for kind, name in (
        ("LimitRange", "hyperscaler"),
        ("ResourceQuota", "hyperscaler"),
        ("ResourceQuota", "hyperscaler-priority"),
    ):
        (found,) = [item for item in documents if (item["kind"], item["metadata"]["name"]) == (kind, name)]
        assert found["metadata"]["namespace"] == "students"
        assert found["spec"] == each[kind, name]["spec"]
    assert each["ClusterRole", "hyperscaler:student"] in documents
    # The role comes after the limits.
    kinds = [item["kind"] for item in documents]
    assert kinds[-1] == "RoleBinding"
    assert documents[-1]["roleRef"]["name"] == "hyperscaler:student"


def test_the_role_that_an_older_version_gave_to_all_is_taken() -> None:
    old, *tokens = role_vars("k8s_control_plane")["kubernetes_superseded"]
    assert (old["kind"], old["namespace"], old["name"]) == ("RoleBinding", "students", "student")
    names = [item["metadata"]["name"] for item in students("none") if item["kind"] == "RoleBinding"]
    assert old["name"] not in names
    # Its account went with the token that had no end.
    assert [(each["kind"], each["namespace"], each["name"]) for each in tokens] == [
        ("Secret", "students", "student-token"),
        ("ServiceAccount", "students", "student"),
    ]


def test_the_shared_account_is_out_of_the_students_reach_and_has_no_lasting_token() -> None:
    documents = students("none")
    assert not [each for each in documents if each["kind"] == "Secret"]
    (account,) = [each for each in documents if each["kind"] == "ServiceAccount"]
    assert (account["metadata"]["name"], account["metadata"]["namespace"]) == (STUDENT, USERS_NAMESPACE)
    (binding,) = [each for each in documents if each["kind"] == "RoleBinding"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", **account["metadata"]}]
    params = {"users": [], "accounts_namespace": USERS_NAMESPACE}
    assert users.wanted_objects(params)[0] in documents, "both ways of making the namespace agree"


def test_students_pods_keep_to_the_baseline() -> None:
    namespace, accounts = [each for each in students("none") if each["kind"] == "Namespace"]
    assert (namespace["metadata"]["name"], accounts["metadata"]["name"]) == ("students", USERS_NAMESPACE)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "baseline"


def test_default_deny_leaves_dns_of_the_cluster_alone_open() -> None:
    assert not [each for each in students("none") if each["kind"] == "NetworkPolicy"]
    policies = [each for each in students("default-deny") if each["kind"] == "NetworkPolicy"]
    assert {each["metadata"]["namespace"] for each in policies} == {"default", "students"}
    for each in policies:
        assert each["metadata"]["labels"] == apply.OURS
        for rule in each["spec"]["egress"]:
            assert rule["to"]
