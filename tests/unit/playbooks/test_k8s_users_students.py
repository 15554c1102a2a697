"""What pods of students may do, to their node and to each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from emulator.core.data_files import share_dir
from emulator.guests.verify.kubeconfigs import STUDENT
from emulator.kubernetes.config.users import USERS_NAMESPACE
from tests.support.playbook_modules import kubernetes_apply as apply
from tests.support.playbook_modules import load
from tests.support.student_manifests import params, policies, role_vars, students

TRAEFIK = share_dir() / "config/kubernetes/addons/traefik.yaml"
LAB_INGRESS = share_dir() / "config/kubernetes/modules/manifests/lab-ingress.yaml"
users = load("library/kubernetes_users.py", "kubernetes_users")


def of(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in policies() if each["kind"] == kind}


def test_policies_of_the_api_server_hold_in_students_namespaces_and_in_no_other() -> None:
    ours = {**of("ValidatingAdmissionPolicy"), **of("MutatingAdmissionPolicy")}
    (chosen,) = {json.dumps(each["spec"]["matchConstraints"]["namespaceSelector"]) for each in ours.values()}
    labels = json.loads(chosen)["matchLabels"]
    assert labels.items() <= role_vars("k8s_common")["kubernetes_student_labels"].items()
    for namespace in [each for each in students("none") if each["kind"] == "Namespace"]:
        holds = labels.items() <= namespace["metadata"]["labels"].items()
        assert holds is (namespace["metadata"]["name"] == "students")
    for each in ours.values():
        # Without an answer of the policy, the request is refused.
        assert each["spec"]["failurePolicy"] == "Fail"


def test_each_policy_is_bound_and_denies() -> None:
    bindings = of("ValidatingAdmissionPolicyBinding")
    assert bindings.keys() == of("ValidatingAdmissionPolicy").keys()
    for name, binding in bindings.items():
        assert binding["spec"] == {"policyName": name, "validationActions": ["Deny"]}
    assert of("MutatingAdmissionPolicyBinding").keys() == of("MutatingAdmissionPolicy").keys()
    for name, binding in of("MutatingAdmissionPolicyBinding").items():
        assert binding["spec"] == {"policyName": name}


def test_every_rule_says_where_and_what_to_do() -> None:
    rules = [rule for each in of("ValidatingAdmissionPolicy").values() for rule in each["spec"]["validations"]]
    assert len(rules) == 9
    for rule in rules:
        assert ":" in rule["message"]
        # The API server takes no more than 5 KiB, and no line breaks.
        assert len(rule["message"]) < 300
        assert "\n" not in rule["message"]


def test_the_flow_of_the_shared_account_is_that_of_each_student() -> None:
    (shared,) = of("FlowSchema").values()
    each = users.flow("student", "students", USERS_NAMESPACE)
    assert shared["spec"] == each["spec"]
    assert shared["spec"]["priorityLevelConfiguration"]["name"] in of("PriorityLevelConfiguration")


def test_raw_sockets_are_taken_from_containers_of_each_kind() -> None:
    (mutation,) = of("MutatingAdmissionPolicy").values()
    text = json.dumps(mutation["spec"]["mutations"])
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        assert f"object.spec.?{kind}.orValue([])" in text


def test_the_namespace_of_all_has_the_limits_of_each() -> None:
    documents = students("none")
    asked = params(users=[{"name": "ada", "role": "student", "namespace": "students"}])
    each = {(item["kind"], item["metadata"]["name"]): item for item in users.wanted_objects(asked)}
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
    assert users.wanted_objects(params())[0] in documents, "both ways of making the namespace agree"


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


def test_default_deny_lets_the_ingress_controller_in_where_there_is_one() -> None:
    own: list[dict[str, Any]] = [{"podSelector": {}}]
    for peers in ([], [role_vars("k8s_common")["kubernetes_traefik_pods"]]):
        policies = [each for each in students("default-deny", peers) if each["kind"] == "NetworkPolicy"]
        policies += [
            each
            for each in users.wanted_objects(params("ada", isolate=True, ingress_peers=peers))
            if each["kind"] == "NetworkPolicy"
        ]
        assert [each["metadata"]["namespace"] for each in policies] == ["default", "students", "student-ada"]
        for each in policies:
            assert each["spec"]["ingress"] == [{"from": [*own, *peers]}]


@pytest.mark.parametrize(
    ("path", "variable"), [(TRAEFIK, "kubernetes_traefik_pods"), (LAB_INGRESS, "kubernetes_lab_ingress_pods")]
)
def test_the_ingress_controllers_pods_are_known_by_what_its_manifest_gives_them(path: Path, variable: str) -> None:
    documents = {each["kind"]: each for each in yaml.safe_load_all(path.read_text())}
    pods = role_vars("k8s_common")[variable]
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert pods["podSelector"]["matchLabels"] == labels
    namespace = documents["Namespace"]["metadata"]["name"]
    assert pods["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}


def test_students_make_routes_and_no_gateways() -> None:
    rules = role_vars("k8s_common")["kubernetes_student_role"]["rules"]
    writes = [
        rule for rule in rules if rule["apiGroups"] == ["gateway.networking.k8s.io"] and "create" in rule["verbs"]
    ]
    assert [rule["resources"] for rule in writes] == [["httproutes"]]
