"""What the wiring hands on to the probes of a cluster."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from emulator.core.data_files import share_dir
from emulator.core.errors import CommandTimeoutError
from emulator.core.paths import LabPaths
from emulator.core.progress import Event, SilentReporter, Status
from emulator.core.waiting.pace import Pace
from emulator.credentials.users import AccessRole, LabUser
from emulator.guests import over_ssh
from emulator.guests.configure.model import TaskStatus
from emulator.guests.inventory.model import NodeGpu
from emulator.guests.ports import Access
from emulator.guests.verify.report import CheckResult, VerifyReport
from emulator.labfile.load import load_spec
from emulator.labfile.model import ClusterKind
from tests.support.waiting import PATIENCE


@pytest.mark.parametrize(
    ("kind", "nodes"),
    [(ClusterKind.HPC, {"hpc-compute-1", "hpc-compute-2"}), (ClusterKind.CLOUD, {"cloud-gpu-worker-1"})],
)
def test_a_cluster_is_asked_for_its_own_gpus_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: ClusterKind, nodes: set[str]
) -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    with_gpus = [node.name for node in spec.nodes if node.name not in ("hpc-controller", "cloud-control-plane")]
    granted = {name: (NodeGpu("1g.10gb", 1),) for name in with_gpus}
    seen: list[set[str]] = []

    def probe(_spec: Any, _shell: Any, _guests: Any, gpus: Any, *, pace: Any, on_check: Any) -> VerifyReport:
        seen.append(set(gpus))
        return VerifyReport(())

    clocks = CheckResult("clock a", True, "0.0 s behind the host", 0.1)
    monkeypatch.setattr(over_ssh, "verify_clocks", lambda *_arguments, **_more: (clocks,))
    monkeypatch.setattr(over_ssh, "_VERIFY", {kind: probe})
    access = Access(LabPaths(tmp_path), "root", (), granted)
    assert over_ssh.RealGuests(cast(Any, None)).verify(spec, kind, access, SilentReporter()) == (clocks,)
    assert seen == [nodes]


def test_the_inventory_is_also_to_be_had_for_kubespray(tmp_path: Path) -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    access = Access(LabPaths(tmp_path), "root", (), {})
    inventory = yaml.safe_load(over_ssh.RealGuests(cast(Any, None)).inventory(spec, access, "kubespray"))["all"]
    assert set(inventory["hosts"]) == {"cloud-control-plane", "cloud-gpu-worker-1"}
    assert {"kube_control_plane", "etcd", "kube_node", "k8s_cluster"} <= set(inventory["children"])
    assert inventory["vars"]["ansible_ssh_private_key_file"] == str(access.paths.ssh_key)
    assert "StrictHostKeyChecking=yes" in inventory["vars"]["ansible_ssh_common_args"]


@pytest.mark.parametrize("kinds", [(ClusterKind.HPC, ClusterKind.CLOUD), (ClusterKind.CLOUD,), ()])
def test_the_clusters_asked_for_are_asked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kinds: tuple[ClusterKind, ...]
) -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    together = threading.Barrier(max(1, len(kinds)))

    def ask(*_: Any) -> str:
        together.wait(timeout=PATIENCE)  # one after the other, they would wait for each other in vain
        return "all is well"

    monkeypatch.setattr(over_ssh, "slurm_summary", ask)
    monkeypatch.setattr(over_ssh, "kubernetes_summary", ask)
    state = over_ssh.RealGuests(cast(Any, None)).cluster_state(spec, Access(LabPaths(tmp_path), "root", ()), kinds)
    names = {ClusterKind.HPC: "slurm", ClusterKind.CLOUD: "kubernetes"}
    assert state == {names[kind]: "all is well" for kind in kinds}


def test_a_cluster_that_does_not_answer_in_time_is_said_and_keeps_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None

    def hang(*_: Any) -> str:
        raise CommandTimeoutError("the command did not end within 48 s", where="ssh")

    monkeypatch.setattr(over_ssh, "slurm_summary", lambda *_: "2 idle")
    monkeypatch.setattr(over_ssh, "kubernetes_summary", hang)
    access = Access(LabPaths(tmp_path), "root", (), pace=Pace(factor=4.0))
    state = over_ssh.RealGuests(cast(Any, None)).cluster_state(spec, access, tuple(ClusterKind))
    assert state["slurm"] == "2 idle"
    assert state["kubernetes"].startswith("no answer within 48 s, which says nothing of its jobs or pods")


@pytest.mark.parametrize(
    ("nodes", "namespace"),
    [((), "default"), (("cloud-control-plane",), "default"), (("hpc-controller",), "student-bob")],
)
def test_the_kubeconfig_of_an_admin_without_the_control_plane_is_for_their_own_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nodes: tuple[str, ...], namespace: str
) -> None:
    spec, _ = load_spec(share_dir() / "config" / "demo.yaml")
    assert spec is not None
    seen: list[str] = []

    def user_kubeconfig(*_: Any, namespace: str, **_rest: Any) -> str:
        seen.append(namespace)
        return "kubeconfig"

    monkeypatch.setattr(over_ssh, "user_kubeconfig", user_kubeconfig)
    user = LabUser("bob", 3000, AccessRole.ADMIN, nodes)
    access = Access(LabPaths(tmp_path), "root", ())
    over_ssh.RealGuests(cast(Any, None)).hand_kubeconfig(spec, access, user, seconds=600, directory=tmp_path)
    assert seen == [namespace]


def test_a_node_shows_no_task_that_was_skipped_on_it_and_none_once_all_are_done() -> None:
    seen: list[tuple[str, Status]] = []

    class Sink(SilentReporter):
        def event(self, event: Event) -> None:
            seen.append((event.message, event.status))

    tasks = over_ssh._TaskProgress(Sink())
    for task, status in (
        ("Start slurmd", TaskStatus.STARTED),
        ("Start slurmd", TaskStatus.CHANGED),
        ("Configure the login node", TaskStatus.STARTED),
        ("Configure the login node", TaskStatus.SKIPPED),
    ):
        tasks.event("hpc-compute-1", task, status)
    assert seen[-2:] == [("Configure the login node", Status.RUNNING), ("Start slurmd", Status.RUNNING)]
    tasks.end()
    assert seen[-1] == ("configured", Status.DONE)
