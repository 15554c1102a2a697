"""What students may have in Kubernetes, and what the playbook is told of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from emulator.core.data_files import share_dir
from emulator.credentials.ssh_trust import SshTrust
from emulator.credentials.users import AccessBook, AccessRole
from emulator.guests.inventory.build import build_inventory
from emulator.guests.inventory.model import ConnectionFacts, NodeGpu
from emulator.kubernetes.config.users import Workers, student_limits, student_namespace, student_quota
from emulator.labfile.load import load_spec

KEYS = [f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMoe+mH2elGa8VXf8MNkZOYF08DGeWUvGeJ47mhyUj{end}" for end in ("gZ", "gY")]


@pytest.mark.parametrize(
    ("cpus", "mib", "cpu", "memory"),
    [(2, 2048, "1", "1Gi"), (1, 300, "1", "256Mi"), (32, 65536, "16", "32Gi"), (8, 5000, "4", "2500Mi")],
)
def test_a_quota_is_half_of_the_workers(cpus: int, mib: int, cpu: str, memory: str) -> None:
    quota = student_quota(Workers([cpus], [mib], [10]), ["nvidia.com/mig-1g.10gb", "nvidia.com/gpu"])
    assert (quota["requests.cpu"], quota["requests.memory"]) == (cpu, memory)
    assert quota["requests.nvidia.com/mig-1g.10gb"] == quota["requests.nvidia.com/gpu"] == "1"
    assert quota["services.nodeports"] == quota["services.loadbalancers"] == "0"


def test_the_lab_file_says_how_many_pods_and_node_ports_a_student_has() -> None:
    workers = Workers([2], [2048], [10])
    quota = student_quota(workers, [], pods=60, node_ports=2)
    assert (quota["pods"], quota["count/pods"], quota["services.nodeports"]) == ("60", "600", "2")
    # Each may have the default limit of one core.
    assert quota["limits.cpu"] == "60"
    given = student_quota(workers, [])
    assert (given["pods"], given["services.nodeports"], given["limits.cpu"]) == ("20", "0", "20")


def test_what_the_lab_file_says_of_students_reaches_the_playbook(tmp_path: Path) -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    assert spec.kubernetes is not None
    spec = replace(spec, kubernetes=replace(spec.kubernetes, student_pods=7, student_node_ports=3))
    inventory = build_inventory(spec, ConnectionFacts("root", tmp_path / "id", tmp_path / "known_hosts"))
    (cloud,) = [group for group in inventory.groups if group.name == "cloud"]
    quota = cloud.vars["kubernetes_student_quota"]
    assert isinstance(quota, dict)
    assert (quota["pods"], quota["services.nodeports"]) == ("7", "3")


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
    limits = cloud.vars["kubernetes_student_limits"]
    assert isinstance(limits, tuple)
    assert [each["type"] for each in limits if isinstance(each, dict)] == ["Container", "Pod", "PersistentVolumeClaim"]
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


SUFFIXES = {"": 1.0, "m": 0.001, "Mi": 2.0**20, "Gi": 2.0**30}


def amount(quantity: object) -> float:
    """A quantity of Kubernetes' in cores or bytes."""
    match = re.fullmatch(r"([0-9]+)(m|Mi|Gi)?", str(quantity))
    assert match is not None, quantity
    return int(match[1]) * SUFFIXES[match[2] or ""]


WORKERS = st.lists(st.tuples(st.integers(1, 128), st.integers(1024, 1 << 20), st.integers(4, 4096)), min_size=1).map(
    lambda nodes: Workers(*([list(column) for column in zip(*nodes, strict=True)]))
)
# A pod as `kubectl run` makes it, the one of the documents that asks for a GPU, and the probes of `verify`.
PODS_OF_OURS: list[dict[str, dict[str, str]]] = [
    {},
    {"limits": {"nvidia.com/gpu": "1"}},
    {"requests": {"cpu": "5m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}},
]


@given(workers=WORKERS)
@pytest.mark.parametrize("resources", PODS_OF_OURS)
def test_defaults_admit_ordinary_pods_on_the_smallest_nodes(
    workers: Workers, resources: dict[str, dict[str, str]]
) -> None:
    container, pod, claim = student_limits(workers)
    quota = student_quota(workers, ["nvidia.com/gpu"])
    limits = {**as_mapping(container["default"]), **resources.get("limits", {})}
    asked = as_mapping(container["defaultRequest"])
    requests = {**asked, **{key: value for key, value in limits.items() if key not in asked}}
    requests |= resources.get("requests", {})
    for name, most in as_mapping(container["max"]).items():
        assert amount(requests[name]) <= amount(limits[name]) <= amount(most)
    for name, most in as_mapping(pod["max"]).items():
        assert 2 * amount(limits[name]) <= amount(most), "a container and its companion"
    for name, value in requests.items():
        assert amount(value) <= amount(quota[f"requests.{name}"])
    for name in ("cpu", "memory", "ephemeral-storage"):
        # Three at least, as a Deployment of three replicas.
        assert 3 * amount(limits[name]) <= amount(quota[f"limits.{name}"])
        assert 3 * amount(requests[name]) <= amount(quota[f"requests.{name}"])
    assert amount(as_mapping(claim["max"])["storage"]) <= amount(quota["requests.storage"])


def as_mapping(value: object) -> Mapping[str, str]:
    assert isinstance(value, Mapping)
    return value


def test_all_that_a_student_may_make_is_counted() -> None:
    """Whatever can be made without end fills the database of the cluster."""
    role = yaml.safe_load((share_dir() / "playbooks/roles/k8s_common/vars/main.yml").read_text())
    quota = student_quota(Workers([2], [2048], [10]), [])
    for rule in role["kubernetes_student_role"]["rules"]:
        if "create" not in rule["verbs"]:
            continue
        for group in set(rule["apiGroups"]) - {"extensions"}:  # gone since 1.22, and the same objects as of networking
            for name in [each for each in rule["resources"] if "/" not in each]:
                counted = f"count/{name}.{group}" if group else f"count/{name}"
                assert counted in quota or (not group and name in quota), f"{name} of {group or 'core'}"
    # What a controller keeps of former versions counts, too, and must not stop a rollout.
    assert int(quota["count/replicasets.apps"]) >= 11 * int(quota["count/deployments.apps"])
    sets = int(quota["count/statefulsets.apps"]) + int(quota["count/daemonsets.apps"])
    assert int(quota["count/controllerrevisions.apps"]) >= 11 * sets
    assert int(quota["count/pods"]) > int(quota["pods"])
