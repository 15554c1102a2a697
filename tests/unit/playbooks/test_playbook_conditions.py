"""Conditions of the playbooks as Ansible judges them: since 2.19 one that is not true or false ends the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

PLAYBOOKS = Path(__file__).parents[3] / "playbooks"
ROLES = PLAYBOOKS / "roles"
# What the conditions look at, in the shapes that the inventory and registered results have.
VARIABLES: dict[str, Any] = {
    "inventory_hostname": "cloud-gpu-worker-1",
    "groups": {"hpc_controller": ["hpc-controller"], "hpc_compute": ["hpc-compute-1"], "hpc_login": []},
    "kubernetes_control_plane": "cloud-control-plane",
    "kubernetes_ca_hash": "sha256:1",
    "kubernetes_must_join": True,
    "settled": {"stdout": ""},
    "install_packages": [],
    "slurm_configless": True,
    "slurm_rest_api": False,
    "ansible_user": "labadmin",
    "secrets_dir": "/nonexistent",
    "kubernetes_addons": [],
    "kubernetes_addons_here": ["metrics-server"],
    "kubernetes_member": {"release": {}},
    "kubernetes_own_objects": {"left_out": ["FlowSchema"]},
    "kubernetes_users_given": {"changed": True},
    "kubernetes_kubeconfigs": {"changed": False, "skipped": True},
    "upgrade_probe": {"changed": False, "staged": False, "directory": "/var/lib/hyperscaler/upgrade"},
}


def tasks(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in items:
        yield item
        for block in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks"):
            yield from tasks(item.get(block) or [])


def conditions() -> list[tuple[str, str]]:
    found = []
    for file in [*sorted(PLAYBOOKS.glob("*.yml")), *sorted(ROLES.glob("*/tasks/*.yml"))]:
        for task in tasks(yaml.safe_load(file.read_text()) or []):
            asserted = (task.get("ansible.builtin.assert") or {}).get("that", [])
            for key in (task.get("when"), task.get("failed_when"), task.get("changed_when"), asserted):
                words = key if isinstance(key, list) else [key]
                found += [(f"{file.parent.parent.name}/{file.name}", each) for each in words if isinstance(each, str)]
    return found


def test_there_are_conditions() -> None:
    assert len(conditions()) > 10


@pytest.mark.parametrize(("where", "condition"), conditions())
@pytest.mark.parametrize("users", [[], [{"name": "ada", "role": "student", "namespace": "student-ada"}]])
def test_a_condition_is_true_or_false(where: str, condition: str, users: list[dict[str, str]]) -> None:
    given = {**VARIABLES, "kubernetes_users": users, "kubernetes_former_users": users}
    templar = Templar(loader=DataLoader(), variables=given)
    assert templar.evaluate_conditional(trust_as_template(condition)) in (True, False), where
