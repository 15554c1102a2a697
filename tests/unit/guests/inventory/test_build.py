"""The inventory: what is in it, and that Ansible reads each rendering the same way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from emulator.guests.inventory.build import build_inventory, slurm_time, usable_memory_mib
from emulator.guests.inventory.model import AnsibleInventory, ConnectionFacts, NodeGpu
from emulator.guests.inventory.render import InventoryFormat, render
from emulator.labfile.model import ClusterKind, ClusterSpec, KubernetesSpec, NodeSpec, PartitionSpec, Role, SlurmSpec
from emulator.labfile.networks import NetworkSpec
from tests.support.waiting import PATIENCE


def node(name: str, role: Role, address: str, *, cores: int = 2, memory: int = 2048) -> NodeSpec:
    return NodeSpec(name, role, cores, memory, 10, IPv4Address(address))


LAB = ClusterSpec(
    name="demo",
    description='has "quotes", $HOME, # and = signs',
    nodes=(
        node("hpc-controller", Role.HPC_CONTROLLER, "192.168.100.10"),
        node("hpc-compute-1", Role.HPC_COMPUTE, "192.168.100.11"),
        node("hpc-compute-2", Role.HPC_COMPUTE, "192.168.100.12", cores=4, memory=4096),
        node("cloud-control-plane", Role.CLOUD_CONTROL_PLANE, "192.168.200.10"),
        node("cloud-cpu-worker-1", Role.CLOUD_CPU_WORKER, "192.168.200.11"),
        node("cloud-gpu-worker-1", Role.CLOUD_GPU_WORKER, "192.168.200.21"),
    ),
    networks={
        ClusterKind.HPC: NetworkSpec(ClusterKind.HPC, IPv4Network("192.168.100.0/24"), "virbr-hpc"),
        ClusterKind.CLOUD: NetworkSpec(ClusterKind.CLOUD, IPv4Network("192.168.200.0/24"), "virbr-cloud"),
    },
    slurm=SlurmSpec((PartitionSpec("debug", ("hpc-compute-1",)), PartitionSpec("compute")), "compute", 86400 + 1800),
    kubernetes=KubernetesSpec(),
)
CONNECTION = ConnectionFacts(
    user="root",
    private_key=Path("/lab dir/ssh/id_ed25519"),
    known_hosts=Path("/lab dir/ssh/known_hosts"),
    ssh_config=Path("/lab dir/ssh/config"),
)
GPUS = {"hpc-compute-2": (NodeGpu("1g.10gb", 2, simulated=True), NodeGpu("3g.40gb", 1, simulated=True))}


@pytest.fixture(scope="module")
def inventory() -> AnsibleInventory:
    return build_inventory(LAB, CONNECTION, GPUS)


def read_by_ansible(path: Path) -> dict[str, object]:
    tool = Path(sys.executable).parent / "ansible-inventory"
    done = subprocess.run(
        [tool, "-i", path, "--list"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
        env={"PATH": os.environ["PATH"], "HOME": str(path.parent), "ANSIBLE_LOCALHOST_WARNING": "0"},
    )
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


@pytest.fixture(scope="module")
def readings(
    inventory: AnsibleInventory, tmp_path_factory: pytest.TempPathFactory
) -> dict[InventoryFormat, dict[str, object]]:
    directory = tmp_path_factory.mktemp("inventory")
    found = {}
    for form in InventoryFormat:
        path = directory / f"hosts.{form.value}"
        text = render(inventory, form)
        if form is InventoryFormat.JSON:  # Ansible takes this form from a program, not from a file
            path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
            path.chmod(0o755)
        else:
            path.write_text(text)
        found[form] = read_by_ansible(path)
    return found


@pytest.mark.parametrize("form", list(InventoryFormat))
def test_ansible_reads_back_the_hosts_and_variables(
    readings: dict[InventoryFormat, dict[str, object]], inventory: AnsibleInventory, form: InventoryFormat
) -> None:
    meta = readings[form]["_meta"]
    assert isinstance(meta, dict)
    read = meta["hostvars"]
    assert set(read) == {host.name for host in inventory.hosts}
    compute = read["hpc-compute-2"]
    assert compute["ansible_host"] == "192.168.100.12"
    assert compute["node_cpus"] == 4
    assert compute["node_gpus"] == [
        {"type": "1g.10gb", "count": 2, "simulated": True, "device_files": ["/dev/lab-gpu0", "/dev/lab-gpu1"]},
        {"type": "3g.40gb", "count": 1, "simulated": True, "device_files": ["/dev/lab-gpu2"]},
    ]
    assert compute["ansible_ssh_common_args"] == CONNECTION.ssh_args()
    assert compute["ansible_become"] is False
    assert compute["slurm_max_time"] == "1-00:30:00"
    assert compute["slurm_partitions"] == [
        {"name": "debug", "nodes": ["hpc-compute-1"], "default": False},
        {"name": "compute", "nodes": ["hpc-compute-1", "hpc-compute-2"], "default": True},
    ]
    assert "slurm_partitions" not in read["cloud-control-plane"]
    assert read["cloud-control-plane"]["kubernetes_pod_subnet"] == "10.244.0.0/16"


@pytest.mark.parametrize("form", [InventoryFormat.YAML, InventoryFormat.JSON])
def test_all_formats_mean_the_same(readings: dict[InventoryFormat, dict[str, object]], form: InventoryFormat) -> None:
    assert readings[form] == readings[InventoryFormat.INI]


def test_groups(inventory: AnsibleInventory) -> None:
    groups = {group.name: group for group in inventory.groups}
    assert list(groups) == [
        "hpc", "hpc_controller", "hpc_compute", "hpc_login", "cloud", "cloud_control_plane", "cloud_workers",
    ]  # fmt: skip
    assert groups["hpc"].children == ("hpc_controller", "hpc_compute", "hpc_login")
    assert groups["cloud_workers"].hosts == ("cloud-cpu-worker-1", "cloud-gpu-worker-1")


def test_a_lab_with_one_cluster_keeps_the_empty_groups() -> None:
    alone = ClusterSpec("a", "", LAB.nodes[:2], LAB.networks, slurm=LAB.slurm)
    groups = {group.name: group for group in build_inventory(alone, CONNECTION).groups}
    assert groups["cloud_workers"].hosts == ()
    assert groups["cloud"].vars == {}


def test_host_keys_are_always_checked() -> None:
    assert "StrictHostKeyChecking=yes" in CONNECTION.ssh_args()
    assert "GlobalKnownHostsFile=/dev/null" in CONNECTION.ssh_args()


def test_another_user_becomes_root() -> None:
    facts = ConnectionFacts("admin", Path("/k"), Path("/h"))
    assert build_inventory(LAB, facts).vars["ansible_become"] is True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "UNLIMITED"), (60, "0-00:01:00"), (3661, "0-01:01:01"), (7 * 86400, "7-00:00:00")],
)
def test_slurm_time(seconds: int | None, text: str) -> None:
    assert slurm_time(seconds) == text


@pytest.mark.parametrize(
    # What MemTotal was on Debian 12 guests of that size.
    ("memory_mib", "seen_by_guest"),
    [(512, 455), (1024, 960), (2048, 1958), (4096, 3915)],
)
def test_usable_memory_stays_below_what_a_guest_sees(memory_mib: int, seen_by_guest: int) -> None:
    assert 0.9 * seen_by_guest < usable_memory_mib(memory_mib) < seen_by_guest
