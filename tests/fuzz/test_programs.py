"""What other programs print: Slurm, MUNGE, kubectl, kubeadm, systemd, qemu-img, ansible-runner, guests' consoles."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.adapters.system.qemu_img import QemuImg
from emulator.core.console_log import marked_lines
from emulator.core.ports import Completed, GuestAddress
from emulator.core.waiting.pace import Pace
from emulator.guests.configure.events import RunRecord, parse_event
from emulator.guests.ssh import host_keys_from_console
from emulator.guests.verify import kubernetes_verdicts, slurm_verdicts
from emulator.guests.verify.kubeconfigs import admin_kubeconfig, student_kubeconfig
from emulator.lab.drain import cluster_nodes
from emulator.lab.wait_for_ssh import last_lines
from tests.support import playbook_modules
from tests.support.fake_runner import FakeRunner
from tests.support.hostile_text import CPU_SECONDS, answered, as_bytes, changed, changed_json, json_values, words
from tests.support.kubeadm_files import admin_conf, authority, encoded
from tests.support.random_examples import examples

# ---------------------------------------------------------------- Slurm and MUNGE
SINFO = "hpc-compute-1|idle|gpu:1g.10gb:2(S:0)|none\nhpc-compute-2|down*|(null)|Not responding\n"
UNMUNGE = "STATUS:           Success (0)\nENCODE_HOST:      hpc-controller (192.168.100.10)\nUID:  root (0)\n"
JOB = "7 hpc-compute-1 hpc-compute-1\n7 hpc-compute-2 hpc-compute-2.hpc.lab\n"
SACCT = "7|student|COMPLETED|2|0:0\n"
NODES = ("hpc-compute-1", "hpc-compute-2")


@examples(50)
@given(changed([SINFO]) | words)
def test_sinfo(text: str) -> None:
    rows = answered(slurm_verdicts.parse_sinfo, text)
    assert rows is not None
    answered(slurm_verdicts.judge_nodes, rows, NODES)
    answered(slurm_verdicts.judge_gpus, rows, {})
    answered(slurm_verdicts.summarise_nodes, rows)


@examples(40)
@given(changed([UNMUNGE]), changed([JOB]), changed([SACCT]))
def test_munge_jobs_and_accounting(credential: str, printed: str, record: str) -> None:
    answered(slurm_verdicts.judge_unmunge, 0, credential, sender="x")
    job = answered(slurm_verdicts.parse_job, printed)
    assert job is not None
    answered(slurm_verdicts.judge_job, job, NODES, complaint=record)
    answered(slurm_verdicts.judge_accounting, record, job, user="student", node_count=2)


# ---------------------------------------------------------------- Kubernetes
READY = [{"type": "Ready", "status": "True"}]
CLUSTER = {
    "items": [
        {
            "kind": "Node",
            "metadata": {"name": "w", "labels": {"a": "b"}},
            "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
            "status": {
                "conditions": READY,
                "nodeInfo": {"kubeletVersion": "v1.37.2"},
                "allocatable": {"nvidia.com/gpu": "2", "cpu": "2"},
            },
        },
        {
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": "kube-system"},
            "spec": {"nodeName": "w"},
            "status": {
                "phase": "Pending",
                "conditions": READY,
                "containerStatuses": [{"state": {"waiting": {"reason": "x", "message": "y"}}}],
            },
        },
        {"kind": "Namespace", "metadata": {"name": "kube-system"}},
        {
            "kind": "DaemonSet",
            "metadata": {"name": "d", "namespace": "kube-system", "generation": 1},
            "spec": {},
            "status": {"observedGeneration": 1, "desiredNumberScheduled": 1, "numberReady": 1},
        },
    ]
}
listings = changed_json([CLUSTER]).map(json.dumps) | changed([json.dumps(CLUSTER)]) | st.just("[" * 100_000)


@examples(60)
@given(listings)
def test_kubectl_s_listings(text: str) -> None:
    cluster = answered(kubernetes_verdicts.parse_cluster, text)
    assert cluster is not None
    answered(kubernetes_verdicts.judge_nodes, cluster.nodes, ["w"])
    answered(kubernetes_verdicts.judge_pods, cluster.pods, ["p"], cluster.workloads)
    answered(kubernetes_verdicts.judge_spread, cluster.pods, ["w"])
    answered(kubernetes_verdicts.parse_nodes, text)
    answered(kubernetes_verdicts.parse_pods, text)


class Shell:
    """Every command prints the same, except the one that reads the cluster's authority."""

    def __init__(self, text: str) -> None:
        self._text = text

    def ready(self, _guest: GuestAddress, *, timeout: float) -> bool:
        return True

    def run(self, _guest: GuestAddress, command: str, **_options: object) -> Completed:
        return Completed((command,), 0, encoded(authority()) if "pki/ca.crt" in command else self._text, "")


HEAD = GuestAddress("cloud-control-plane", IPv4Address("192.168.200.10"), "root")
TOKEN = {"status": {"token": "YWJj"}}


@examples(40)
@given(listings, changed_json([TOKEN]).map(json.dumps) | changed([json.dumps(TOKEN)]))
def test_answers_of_the_control_plane(nodes: str, secret: str) -> None:
    answered(cluster_nodes, Shell(nodes), HEAD, Pace())
    answered(student_kubeconfig, Shell(secret), HEAD, cluster="demo")


@examples(60)
@given(changed([admin_conf()]))
def test_admin_conf(text: str) -> None:
    answered(admin_kubeconfig, Shell(text), HEAD, cluster="demo")


# ---------------------------------------------------------------- the playbooks' modules
@pytest.fixture(scope="module")
def modules() -> tuple[ModuleType, ModuleType, ModuleType]:
    playbook_modules.load("module_utils/kubeadm_config.py", "ansible.module_utils.kubeadm_config")
    return (
        playbook_modules.load("library/kubeadm_node.py", "kubeadm_node"),
        playbook_modules.load("library/kubernetes_objects.py", "kubernetes_objects"),
        playbook_modules.load("library/node_state.py", "node_state"),
    )


def says(text: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """In place of `subprocess.run`: every program ends well and prints this."""
    return lambda argv, **_options: subprocess.CompletedProcess(argv, 0, text, "")


def judged(call: Callable[[], object], *errors: type[Exception]) -> object:
    """As `answered`, for code that knows its own errors alone: those that its `main` tells the operator."""
    import time

    started = time.thread_time()
    try:
        return call()
    except errors:
        return None
    finally:
        assert time.thread_time() - started < CPU_SECONDS


@examples(40)
@given(text=listings)
def test_what_kubectl_says_to_the_module(modules: tuple[ModuleType, ModuleType, ModuleType], text: str) -> None:
    _, objects, _ = modules
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(objects.subprocess, "run", says(text))

        def look() -> None:
            nodes, workloads = objects.snapshot()
            objects.waiting_for(["w"], ["kube-system"], nodes, workloads)
            wanted = [{"name": "w", "labels": {"a": "b"}, "taints": [{"key": "k", "effect": "NoSchedule"}]}]
            objects.converge_nodes(wanted, nodes, ["k"], check=True)

        judged(look, objects.ClusterError)


@examples(25)
@given(text=words | changed(["abcdef.0123456789abcdef\n", "W1 warning: x\nabcdef.0123456789abcdef\n"]))
def test_the_token_that_kubeadm_prints(modules: tuple[ModuleType, ModuleType, ModuleType], text: str) -> None:
    kubeadm, _, _ = modules
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kubeadm.subprocess, "run", says(text))
        patched.setattr(kubeadm, "FIRST_TOKEN", "/nonexistent/first-token")
        token = judged(kubeadm.new_token, kubeadm.NodeError)
    assert token is None or kubeadm.TOKEN.fullmatch(token)


RECORDS = [
    {"format": 1, "role": "worker", "ca_hash": "sha256:1"},
    {"format": 1, "role": "control-plane", "digest": "d"},
]


@examples(30)
@given(text=changed_json(RECORDS).map(json.dumps) | changed([json.dumps(RECORDS[0])]) | json_values.map(json.dumps))
def test_the_module_s_own_record(
    modules: tuple[ModuleType, ModuleType, ModuleType], tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    """A record that cannot be believed is refused: taking it for none would take the cluster down."""
    kubeadm, _, _ = modules
    path = Path(tmp_path_factory.getbasetemp()) / "kubeadm.json"
    path.write_bytes(as_bytes(text))
    record = judged(lambda: kubeadm.read_record(str(path)), kubeadm.NodeError)
    if isinstance(record, dict) and record.get("role"):
        assert isinstance(record["ca_hash"], str)
    else:
        assert record is None or isinstance(record, dict)


UNITS = """Id=munge.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
NeedDaemonReload=no
ExecMainStartTimestamp=Mon 2026-11-23 19:06:06.123456 UTC

Id=slurmd.service
LoadState=loaded
ActiveState=active
UnitFileState=enabled
NeedDaemonReload=no
ExecMainStartTimestamp=Mon 2026-11-23 19:06:06 UTC
"""


@examples(50)
@given(text=changed([UNITS]))
def test_what_systemctl_shows(modules: tuple[ModuleType, ModuleType, ModuleType], text: str) -> None:
    *_, node_state = modules
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(node_state.subprocess, "run", says(text))
        units: list[dict[str, Any]] = [
            {"name": name, "enabled": True, "state": state, "reads": [], "listen": None}
            for name, state in (("munge", "started"), ("slurmd", "stopped"))
        ]
        judged(lambda: node_state.converge_units(units, 1, check=True), node_state.NodeStateError)


SHADOW = "root:*:19000:0:99999:7:::\nann:!:19000:0:99999:7::1:\n"
TCP = "  sl  local_address rem_address   st\n   0: 0100007F:1F90 00000000:0000 0A 0 0\n"


@examples(30)
@given(shadow=changed([SHADOW]), ports=changed([TCP]))
def test_files_of_the_node(
    tmp_path_factory: pytest.TempPathFactory,
    shadow: str,
    ports: str,
) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "shadow"
    path.write_bytes(as_bytes(shadow))
    judged(lambda: playbook_modules.user_end.expiry("ann", str(path)), OSError)
    judged(lambda: playbook_modules.node_units.parse_ports(ports))


# ---------------------------------------------------------------- disks, playbooks, consoles
DISK = {
    "format": "qcow2",
    "virtual-size": 4 << 30,
    "full-backing-filename": "/x/disk.qcow2",
    "backing-filename": "disk.qcow2",
}


@examples(40)
@given(changed_json([DISK]).map(json.dumps) | changed([json.dumps(DISK)]) | words)
def test_qemu_img(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "disk.qcow2"
    path.touch()
    disks = QemuImg(FakeRunner({"": text}))
    answered(disks.overlay_base, path)
    answered(disks.size_gib, path)


EVENT: dict[str, Any] = {
    "event": "runner_on_failed",
    "event_data": {"host": "a", "task": "t", "task_action": "command", "res": {"msg": "no", "changed": True}},
}


@examples(40)
@given(st.lists(changed_json([EVENT]), max_size=4))
def test_events_of_a_playbook(events: list[Any]) -> None:
    record = RunRecord()
    for event in events:
        found = answered(parse_event, event) if isinstance(event, dict) else None
        if found is not None:
            record.add(found)
    record.under_way()
    assert all(isinstance(count, int) for count in record.changed.values())


CONSOLE = "[    1.0] systemd[1]: hyperscaler-host-key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43 + "\nlogin: \n"


@examples(40)
@given(changed([CONSOLE]))
def test_a_guest_s_console(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = Path(tmp_path_factory.getbasetemp()) / "console.log"
    path.write_bytes(as_bytes(text))
    answered(host_keys_from_console, text)
    answered(host_keys_from_console, answered(marked_lines, path))
    shown = answered(last_lines, path)
    assert shown is not None
    assert all(line.isprintable() for line in shown.split("\n"))
