"""A Slurm lab from nothing to nothing. The tests build on each other and run in this order."""

from __future__ import annotations

import base64
import subprocess
import time
from pathlib import Path

import pytest
import testinfra
from labs import COMMAND, host_snapshot, hyperscaler, left_behind

from emulator.paths import Home

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("no_lab_left")]

LAB = "e2e-slurm"
COMPUTE = ("hpc-compute-1", "hpc-compute-2")
SPEC = """
version: "1.0"
metadata: {{name: {lab}}}
global:
  gpu_allocation:
    backend: simulated
    devices: [{{id: GPU-0, model: NVIDIA A100-SXM4-80GB, mig_capable: true}}]
clusters:
  hpc:
    controller: {{cpu_cores: 2, memory_gb: 2, disk_gb: 8}}
    compute_nodes:
      {{count: {count}, cpu_cores: 1, memory_gb: 1, disk_gb: 8, gpu_enabled: true, gpu: {{profile: 1g.10gb}}}}
    slurm_config:
      partitions: [main, debug]
      default_partition: main
      max_job_time: "00:30:00"
hypervisor: {{uri: embedded}}
"""


@pytest.fixture(scope="module")
def lab_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lab") / "cluster.yaml"
    path.write_text(SPEC.format(lab=LAB, count=2))
    return path


@pytest.fixture(scope="module")
def provisioned(lab_file: Path, before: dict[str, list[str]]) -> dict:
    started = time.monotonic()
    result = hyperscaler("provision", lab_file, "--yes", "--json")
    print(f"provision took {time.monotonic() - started:.0f} s")
    return result.json()


def guest(name: str):
    config = Home.default().lab(LAB).ssh_config
    return testinfra.get_host(f"ssh://{name}?ssh_config={config}")


def run(name: str, command: str) -> str:
    result = guest(name).run(command)
    assert result.rc == 0, f"{command}: {result.stderr}"
    return result.stdout.strip()


def test_validate_and_plan_touch_nothing(lab_file: Path, before: dict[str, list[str]]) -> None:
    assert hyperscaler("validate", lab_file).code == 0
    plan = hyperscaler("plan", lab_file, "--json").json()
    assert [change["id"] for change in plan["changes"]].count("domain/hpc-controller") == 1
    assert left_behind(before, host_snapshot()) == {}


def test_provision_verifies_itself(provisioned: dict) -> None:
    assert provisioned["checks"]
    assert all(check["ok"] for check in provisioned["checks"])
    assert sum(provisioned["configured"].values()) > 0


def test_secrets_are_private(provisioned: dict) -> None:
    paths = Home.default().lab(LAB)
    assert paths.root.stat().st_mode & 0o777 == 0o700
    for path in (*paths.secrets.iterdir(), paths.ssh_key):
        assert path.stat().st_mode & 0o077 == 0, path
    key = (paths.secrets / "munge.key").read_bytes()
    for path in paths.root.rglob("*"):
        if path.is_file() and path.suffix != ".qcow2" and path.parent != paths.secrets:
            content = path.read_bytes()
            assert key[:32] not in content, path
            assert base64.b64encode(key)[:40] not in content, path


@pytest.mark.parametrize("name", ["hpc-controller", *COMPUTE])
def test_services(provisioned: dict, name: str) -> None:
    host = guest(name)
    wanted = ["munge", "slurmctld", "slurmdbd", "mariadb"] if name == "hpc-controller" else ["munge", "slurmd"]
    for service in wanted:
        assert host.service(service).is_running, service
    assert host.run("hostname").stdout.strip() == name
    assert host.run("systemctl is-failed '*'").stdout.strip().splitlines().count("failed") == 0
    assert host.file("/etc/munge/munge.key").mode == 0o400 or host.file("/etc/munge/munge.key").mode == 0o600


def test_password_login_is_off(provisioned: dict) -> None:
    settings = run("hpc-compute-1", "sshd -T")
    assert "passwordauthentication no" in settings
    assert run("hpc-compute-1", "passwd -S root").split()[1] == "L"


def test_slurm_runs_jobs_on_all_nodes(provisioned: dict) -> None:
    assert sorted(run("hpc-controller", "srun -N2 hostname").split()) == list(COMPUTE)
    states = set(run("hpc-controller", "sinfo -h -N -o %t").split())
    assert states <= {"idle", "mix", "alloc"}
    partitions = run("hpc-controller", "sinfo -h -o '%P %l'")
    assert "main* 30:00" in partitions
    assert "debug 30:00" in partitions


def test_batch_job_and_accounting(provisioned: dict) -> None:
    job = run("hpc-controller", "sbatch --parsable --wait -N1 -o /tmp/out --wrap 'echo from $(hostname)'")
    record = run("hpc-controller", f"sleep 2; sacct -n -X -P -j {job} -o JobID,State,Partition")
    assert record == f"{job}|COMPLETED|main"


def test_slurm_schedules_slices(provisioned: dict) -> None:
    """Each slice is granted once, and a job that finds none waits until one is given back."""
    gres = run("hpc-controller", "sinfo -h -N -p main -o '%N %G'").splitlines()
    assert [line.split("(")[0] for line in gres] == [f"{name} gpu:1g.10gb:1" for name in COMPUTE]
    ask = "sbatch --parsable -p main --gres=gpu:1g.10gb:1 --mem=50 -o /dev/null"
    first, second, third = (run("hpc-controller", f"{ask} --wrap 'sleep 20'") for _ in range(3))
    time.sleep(6)
    states = dict(line.split() for line in run("hpc-controller", "squeue -h -o '%i %T'").splitlines())
    assert (states[first], states[second], states[third]) == ("RUNNING", "RUNNING", "PENDING")
    reason = run("hpc-controller", f"squeue -h -j {third} -o %r")
    assert reason in ("Resources", "Priority")
    run("hpc-controller", f"scancel {first}; sleep 8")
    assert run("hpc-controller", f"squeue -h -j {third} -o %T") == "RUNNING"
    run("hpc-controller", f"scancel {second} {third}; sleep 3")
    record = run("hpc-controller", f"sacct -n -X -P -j {third} -o AllocTRES")
    assert "gres/gpu=1" in record


def test_more_slices_than_there_are_is_refused(provisioned: dict) -> None:
    refused = guest("hpc-controller").run("srun -N1 --gres=gpu:1g.10gb:2 hostname")
    assert refused.rc != 0
    assert "Requested node configuration is not available" in refused.stderr


def test_gpu_verbs_know_the_slices(provisioned: dict) -> None:
    mapped = hyperscaler("gpu", "map", LAB, "--json").json()
    assert "hpc-compute-1" in str(mapped)
    top = hyperscaler("gpu", "top", LAB, "--json").json()
    assert "1g.10gb" in str(top)


def test_names_resolve_between_nodes(provisioned: dict) -> None:
    assert "192.168.100.10" in run("hpc-compute-1", "getent hosts hpc-controller")


def test_second_provision_changes_nothing(provisioned: dict, lab_file: Path) -> None:
    assert hyperscaler("plan", lab_file, "--json").json()["changes"] == []
    again = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert again["changes"] == []
    assert sum(again["configured"].values()) == 0


def test_status_inventory_and_ssh(provisioned: dict, tmp_path: Path) -> None:
    status = hyperscaler("status", LAB, "--json").json()
    assert {node["state"] for node in status["nodes"]} == {"running"}
    assert status["problems"] == []
    assert "idle" in status["clusters"]["slurm"]
    assert hyperscaler("ssh", LAB, "hpc-compute-2", "--", "hostname").stdout.strip() == "hpc-compute-2"
    assert hyperscaler("ssh", LAB, "hpc-compute-2", "--", "exit", "7", check=False).code == 7
    inventory = tmp_path / "inventory.yaml"
    inventory.write_text(hyperscaler("inventory", LAB).stdout)
    ansible = COMMAND.with_name("ansible")
    ping = subprocess.run([ansible, "all", "-i", inventory, "-m", "ping"], capture_output=True, text=True, timeout=300)
    assert ping.stdout.count("SUCCESS") == 3, ping.stdout + ping.stderr


def test_scaling_out_applies_only_the_difference(provisioned: dict, lab_file: Path) -> None:
    lab_file.write_text(SPEC.format(lab=LAB, count=3))
    plan = hyperscaler("plan", lab_file, "--json").json()
    assert [(change["action"], change["id"]) for change in plan["changes"]] == [
        ("update", "network/hpc"),
        # At the far end, where it leaves the largest profile possible.
        ("create", "gpu-instance/0000:41:00.0-1g.10gb-at-6"),
        ("create", "vgpu/0000:41:00.0-1g.10gb-at-6"),
        ("create", "volume/hpc-compute-3"),
        ("create", "domain/hpc-compute-3"),
    ]
    hyperscaler("provision", lab_file, "--yes")
    hosts = run("hpc-controller", "srun -N3 hostname").split()
    assert sorted(hosts) == [*COMPUTE, "hpc-compute-3"]


def test_scaling_in_removes_the_node_again(provisioned: dict, lab_file: Path) -> None:
    lab_file.write_text(SPEC.format(lab=LAB, count=2))
    hyperscaler("provision", lab_file, "--yes")
    assert sorted(run("hpc-controller", "sinfo -h -N -p main -o %N").split()) == list(COMPUTE)
    assert not (Home.default().lab(LAB).disks / "hpc-compute-3.qcow2").exists()


def test_destroy_leaves_nothing_behind(provisioned: dict, before: dict[str, list[str]]) -> None:
    hyperscaler("destroy", LAB, "--yes")
    assert left_behind(before, host_snapshot()) == {}
    assert hyperscaler("status", LAB, "--json", check=False).code == 2
