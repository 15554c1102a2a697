"""What students may have in Kubernetes, and what the playbook is told of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.core.data_files import share_dir
from emulator.credentials.ssh_trust import SshTrust
from emulator.credentials.users import AccessBook, AccessRole
from emulator.guests.inventory.build import build_inventory
from emulator.guests.inventory.model import ConnectionFacts, NodeGpu
from emulator.kubernetes.config.users import student_namespace, student_quota
from emulator.labfile.load import load_spec

KEYS = [f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMoe+mH2elGa8VXf8MNkZOYF08DGeWUvGeJ47mhyUj{end}" for end in ("gZ", "gY")]


@pytest.mark.parametrize(
    ("cpus", "mib", "cpu", "memory"),
    [(2, 2048, "1", "1Gi"), (1, 300, "1", "256Mi"), (32, 65536, "16", "32Gi"), (8, 5000, "4", "2500Mi")],
)
def test_a_quota_is_half_of_the_workers(cpus: int, mib: int, cpu: str, memory: str) -> None:
    quota = student_quota(cpus, mib, ["nvidia.com/mig-1g.10gb", "nvidia.com/gpu"])
    assert (quota["requests.cpu"], quota["requests.memory"]) == (cpu, memory)
    assert quota["requests.nvidia.com/mig-1g.10gb"] == quota["requests.nvidia.com/gpu"] == "1"
    assert quota["services.nodeports"] == quota["services.loadbalancers"] == "0"


def test_a_student_s_namespace_is_no_system_s() -> None:
    assert student_namespace("kube-system") == "student-kube-system"
    assert len(student_namespace("a" * 31)) <= 63


def test_the_playbook_is_told_who_has_access_and_who_had(tmp_path: Path) -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    book = AccessBook().granted("ada", AccessRole.STUDENT, public_key=KEYS[0], expires=1)
    book = book.granted("bob", AccessRole.ADMIN, public_key=KEYS[1], expires=1).without("ada")
    gpus = {"cloud-gpu-worker-1": (NodeGpu("1g.10gb", 2, simulated=True),)}
    connection = ConnectionFacts("root", tmp_path / "id", tmp_path / "known_hosts")
    inventory = build_inventory(spec, connection, gpus, SshTrust(book=book))
    (cloud,) = [group for group in inventory.groups if group.name == "cloud"]
    assert cloud.vars["kubernetes_users"] == ({"name": "bob", "role": "admin", "namespace": "student-bob"},)
    assert cloud.vars["kubernetes_former_users"] == ({"name": "ada", "namespace": "student-ada"},)
    quota = cloud.vars["kubernetes_student_quota"]
    assert isinstance(quota, dict)
    assert quota["requests.nvidia.com/mig-1g.10gb"] == "1"
    (hpc,) = [group for group in inventory.groups if group.name == "hpc"]
    assert "kubernetes_users" not in hpc.vars


@pytest.mark.parametrize(
    ("nodes", "role"),
    [
        ((), "admin"),
        (("cloud-control-plane", "hpc-controller"), "admin"),
        (("cloud-gpu-worker-1",), "student"),
        (("hpc-controller",), "student"),
    ],
)
def test_only_who_is_admin_of_the_control_plane_is_admin_of_the_cluster(
    tmp_path: Path, nodes: tuple[str, ...], role: str
) -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    book = AccessBook().granted("bob", AccessRole.ADMIN, public_key=KEYS[0], expires=1, nodes=nodes)
    book = book.granted("ada", AccessRole.STUDENT, public_key=KEYS[1], expires=1, nodes=nodes)
    connection = ConnectionFacts("root", tmp_path / "id", tmp_path / "known_hosts")
    inventory = build_inventory(spec, connection, {}, SshTrust(book=book))
    (cloud,) = [group for group in inventory.groups if group.name == "cloud"]
    assert cloud.vars["kubernetes_users"] == (
        {"name": "bob", "role": role, "namespace": "student-bob"},
        {"name": "ada", "role": "student", "namespace": "student-ada"},
    )
