"""The documents about students that the role k8s_control_plane applies, rendered as Ansible renders them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jinja2
import yaml

from emulator.kubernetes.config.users import Workers, student_limits, student_quota
from tests.support.playbook_modules import PLAYBOOKS

GPU = "nvidia.com/mig-1g.10gb"
# The smallest worker of the documents.
WORKERS = Workers(cpus=[2], memory=[2048], disk=[10])
QUOTA = dict(student_quota(WORKERS, [GPU]))
LIMITS = list(student_limits(WORKERS))


def rendered(name: str, **values: Any) -> list[dict[str, Any]]:
    """The documents of a template of the role."""
    environment = jinja2.Environment()  # noqa: S701  YAML, not HTML
    environment.filters["to_json"] = json.dumps
    text = (PLAYBOOKS / "roles/k8s_control_plane/templates" / name).read_text()
    return [document for document in yaml.safe_load_all(environment.from_string(text).render(values)) if document]


def role_vars(role: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PLAYBOOKS / f"roles/{role}/vars/main.yml").read_text())
    return found


def students(policy: str = "none", peers: Sequence[dict[str, Any]] = ()) -> list[dict[str, Any]]:
    """The namespace of all students, under the lab file's `network_policy`; `peers` reach them all the same."""
    values = {
        **role_vars("k8s_common"),
        **role_vars("k8s_control_plane"),
        "kubernetes_student_quota": QUOTA,
        "kubernetes_student_limits": LIMITS,
        "kubernetes_ingress_peers": list(peers),
    }
    names = (
        "kubernetes_student_labels",
        "kubernetes_default_deny",
        "kubernetes_student_role",
        "kubernetes_student_quota",
        "kubernetes_student_limits",
        "kubernetes_ingress_peers",
    )
    return rendered("students.yaml.j2", kubernetes_network_policy=policy, **{name: values[name] for name in names})


def policies() -> list[dict[str, Any]]:
    """Policies of admission and flow control."""
    values = role_vars("k8s_control_plane")
    numbers = ("kubernetes_student_grace", "kubernetes_student_token_seconds", "kubernetes_student_object_bytes")
    return rendered("student-policies.yaml.j2", **{name: values[name] for name in numbers})


def params(*names: str, **changes: Any) -> dict[str, Any]:
    """What the module kubernetes_users is given about these students."""
    common = role_vars("k8s_common")
    return {
        "users": [{"name": name, "role": "student", "namespace": f"student-{name}"} for name in names],
        "former": [],
        "accounts_namespace": "hyperscaler-users",
        "quota": QUOTA,
        "limits": LIMITS,
        "labels": common["kubernetes_student_labels"],
        "student_role": common["kubernetes_student_role"],
        "isolate": False,
        "ingress_peers": [],
        **changes,
    }
