"""A Slurm lab from nothing to nothing. The tests build on each other and run in this order."""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from emulator.core.debian.releases import SlurmFeature
from emulator.core.paths import Home
from tests.support import exercise_solutions
from tests.support import student_attacks as attack
from tests.support.guest_release import SLURM_FEATURES, images_section, slurm_wishes
from tests.support.labs import COMMAND, host_snapshot, hyperscaler, left_behind
from tests.support.node_baseline import check_baseline, check_secrets, check_ssh_audit, closed_from_outside, guest
from tests.support.waiting import PATIENCE, until

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("no_lab_left")]

LAB = "e2e-slurm"
COMPUTE = ("hpc-compute-1", "hpc-compute-2")
LOGIN = "hpc-login-1"
NODES = ("hpc-controller", *COMPUTE, LOGIN)
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
    login_nodes: {{cpu_cores: 1, memory_gb: 0.5, disk_gb: 8}}
    slurm_config:
      {{partitions: [{partitions}], default_partition: main, max_job_time: "00:30:00", {wishes}}}
hypervisor: {{uri: embedded}}
"""


def lab_text(*, count: int = 2, partitions: str = "main, debug") -> str:
    text = SPEC.format(lab=LAB, count=count, partitions=partitions, wishes=slurm_wishes())
    return text + images_section()


@pytest.fixture(scope="module")
def lab_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lab") / "cluster.yaml"
    path.write_text(lab_text())
    return path


@pytest.fixture(scope="module")
def provisioned(lab_file: Path, before: dict[str, list[str]]) -> dict[str, Any]:
    started = time.monotonic()
    result = hyperscaler("provision", lab_file, "--yes", "--json")
    print(f"provision took {time.monotonic() - started:.0f} s")
    report: dict[str, Any] = result.json()
    return report


def run(name: str, command: str) -> str:
    """What a command of the lab's owner prints."""
    result = guest(LAB, name).run(command)
    assert result.rc == 0, f"{command}: {result.stderr}"
    return str(result.stdout).strip()


def test_validate_and_plan_touch_nothing(lab_file: Path, before: dict[str, list[str]]) -> None:
    assert hyperscaler("validate", lab_file).code == 0
    plan = hyperscaler("plan", lab_file, "--json").json()
    assert [change["id"] for change in plan["changes"]].count("domain/hpc-controller") == 1
    assert left_behind(before, host_snapshot()) == {}


def test_provision_verifies_itself(provisioned: dict[str, Any]) -> None:
    assert provisioned["checks"]
    assert all(check["ok"] for check in provisioned["checks"])
    assert sum(provisioned["configured"].values()) > 0


# Asks slurmrestd to drain a node, as the token's owner and as those who may, and prints how it answers each.
DRAIN = """
import http.client, json, socket, sys
for name in ("student", "root", "slurm"):
    local = http.client.HTTPConnection("localhost")
    local.sock = socket.socket(socket.AF_UNIX)
    local.sock.connect("/run/slurmrestd/slurmrestd.socket")
    headers = {"X-SLURM-USER-TOKEN": sys.argv[1], "X-SLURM-USER-NAME": name, "Content-Type": "application/json"}
    body = json.dumps({"state": ["DRAIN"], "reason": "attack"})
    local.request("POST", "/slurm/v0.0.42/node/hpc-compute-1", body, headers)
    print(local.getresponse().status)
"""
SERVICES = {"hpc-controller": {"slurmctld", "slurmdbd", "mariadb"}, LOGIN: set[str]()}


def comes(condition: Callable[[], object]) -> None:
    """Ask the lab again and again, for as long as a slow host needs."""
    until(condition, pause=2)


def counted(events: str) -> Counter[str]:
    """What happened in control groups, and how often: only kinds that did."""
    held: Counter[str] = Counter()
    for line in events.splitlines():
        kind, count = line.split()
        held[kind] += int(count)
    return +held


def job_states(*jobs: str) -> list[str]:
    """What Slurm says of each job that is in its queue."""
    states = dict(line.split() for line in run("hpc-controller", "squeue -h -o '%i %T'").splitlines())
    return [states.get(job, "") for job in jobs]


@pytest.mark.parametrize("name", NODES)
def test_services(provisioned: dict[str, Any], name: str) -> None:
    host = guest(LAB, name, sudo=True)
    assert host.service("munge").is_running
    for service in ("slurmctld", "slurmdbd", "mariadb", "slurmd"):
        assert host.service(service).is_running == (service in SERVICES.get(name, {"slurmd"})), service
    if SlurmFeature.CONFIGLESS in SLURM_FEATURES:
        assert host.service("sackd").is_running == (name == LOGIN)
        assert host.file("/etc/slurm/slurm.conf").exists == (name == "hpc-controller")
    assert host.run("hostname").stdout.strip() == name
    assert host.run("systemctl is-failed '*'").stdout.strip().splitlines().count("failed") == 0
    assert host.file("/etc/munge/munge.key").mode == 0o400 or host.file("/etc/munge/munge.key").mode == 0o600


@pytest.mark.parametrize("name", NODES)
def test_security_baseline(provisioned: dict[str, Any], name: str) -> None:
    check_baseline(LAB, name)


def test_ssh_is_modern(provisioned: dict[str, Any]) -> None:
    check_ssh_audit(LAB, "192.168.100.10")


def test_only_nodes_of_the_cluster_reach_slurm(provisioned: dict[str, Any]) -> None:
    assert closed_from_outside(LAB, "192.168.100.10", 6817)
    assert closed_from_outside(LAB, "192.168.100.11", 6818)
    assert "open" in run("hpc-compute-1", "timeout 20 bash -c '</dev/tcp/192.168.100.10/6817' && echo open")


def test_slurm_runs_jobs_on_all_nodes(provisioned: dict[str, Any]) -> None:
    assert sorted(run("hpc-controller", "srun -N2 hostname").split()) == list(COMPUTE)
    states = set(run("hpc-controller", "sinfo -h -N -o %t").split())
    assert states <= {"idle", "mix", "alloc"}
    partitions = run("hpc-controller", "sinfo -h -o '%P %l'")
    assert "main* 30:00" in partitions
    assert "debug 30:00" in partitions


def test_batch_job_and_accounting(provisioned: dict[str, Any]) -> None:
    job = run("hpc-controller", "sbatch --parsable --wait -N1 -o ~/out --wrap 'echo from $(hostname)'")
    comes(lambda: run("hpc-controller", f"sacct -n -X -P -j {job} -o JobID,State,Partition") == f"{job}|COMPLETED|main")


def test_slurm_schedules_slices(provisioned: dict[str, Any]) -> None:
    """Each slice is granted once, and a job that finds none waits until one is given back."""
    gres = run("hpc-controller", "sinfo -h -N -p main -o '%N %G'").splitlines()
    assert [line.split("(")[0] for line in gres] == [f"{name} gpu:1g.10gb:1" for name in COMPUTE]
    ask = "sbatch --parsable -p main --gres=gpu:1g.10gb:1 --mem=50 -o /dev/null"
    first, second, third = (run("hpc-controller", f"{ask} --wrap 'sleep 1200'") for _ in range(3))
    comes(lambda: job_states(first, second, third) == ["RUNNING", "RUNNING", "PENDING"])
    comes(lambda: run("hpc-controller", f"squeue -h -j {third} -o %r") in ("Resources", "Priority"))
    run("hpc-controller", f"scancel {first}")
    comes(lambda: job_states(third) == ["RUNNING"])
    run("hpc-controller", f"scancel {second} {third}")
    comes(lambda: "gres/gpu=1" in run("hpc-controller", f"sacct -n -X -P -j {third} -o AllocTRES"))


def test_more_slices_than_there_are_is_refused(provisioned: dict[str, Any]) -> None:
    refused = guest(LAB, "hpc-controller").run("srun -N1 --gres=gpu:1g.10gb:2 hostname")
    assert refused.rc != 0
    assert "Requested node configuration is not available" in refused.stderr


def test_gpu_verbs_know_the_slices(provisioned: dict[str, Any]) -> None:
    mapped = hyperscaler("gpu", "map", LAB, "--json").json()
    assert "hpc-compute-1" in str(mapped)
    top = hyperscaler("gpu", "top", LAB, "--json").json()
    assert "1g.10gb" in str(top)


def test_names_resolve_between_nodes(provisioned: dict[str, Any]) -> None:
    assert "192.168.100.10" in run("hpc-compute-1", "getent hosts hpc-controller")


def test_second_provision_changes_nothing(provisioned: dict[str, Any], lab_file: Path) -> None:
    assert hyperscaler("plan", lab_file, "--json").json()["changes"] == []
    again = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert again["changes"] == []
    assert sum(again["configured"].values()) == 0


def test_status_inventory_and_ssh(provisioned: dict[str, Any], tmp_path: Path) -> None:
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
    assert ping.stdout.count("SUCCESS") == len(NODES), ping.stdout + ping.stderr


def ssh_as(user: str) -> list[str | Path]:
    """ssh with what the teacher hands over, from where that lies: `config` counts on its place at the user's."""
    handed = Home.default().lab(LAB).handouts / user
    here = ["-o", f"IdentityFile={handed / 'id_ed25519'}", "-o", f"UserKnownHostsFile={handed / 'known_hosts'}"]
    return ["ssh", "-F", handed / "config", *here, "-o", "BatchMode=yes"]


def as_user(user: str, node: str, command: str) -> subprocess.CompletedProcess[str]:
    """What a user does with the directory that the teacher handed over."""
    argv = [*ssh_as(user), node, command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, check=False)


def test_access_for_a_student_and_an_admin(provisioned: dict[str, Any]) -> None:
    hyperscaler("access", "add", LAB, "ada", "--ttl", "1h", "--node", "hpc-controller")
    hyperscaler("access", "add", LAB, "bob", "--role", "admin")
    ada = as_user("ada", "hpc-controller", "id -un && srun -N2 hostname")
    assert (ada.returncode, sorted(ada.stdout.split())) == (0, ["ada", *COMPUTE]), ada.stderr
    assert as_user("ada", "hpc-controller", "sudo -n true").returncode != 0
    bob = as_user("bob", "hpc-compute-1", "sudo -n id -un")
    assert (bob.returncode, bob.stdout.strip()) == (0, "root"), bob.stderr
    # Not on a node that she was not given, even with a configuration of somebody who was.
    argv = [*ssh_as("bob"), "-i", Home.default().lab(LAB).handouts / "ada" / "id_ed25519"]
    argv += ["-l", "ada", "hpc-compute-1", "true"]
    stranger = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert stranger.returncode == 255
    # Four keys and certificates are as many as the node lets one try.
    assert re.search(r"Permission denied|Too many authentication failures", stranger.stderr), stranger.stderr


def test_a_student_s_jobs_have_limits(provisioned: dict[str, Any]) -> None:
    limits = run("hpc-controller", "sacctmgr -n -P show qos student format=maxtrespu,maxjobspu")
    tres, jobs = limits.split("|")
    # A core of each node, with its share of the memory.
    assert (sorted(tres.split(",")), jobs) == (["cpu=2", "gres/gpu=1", "mem=1848M"], "4")
    ask = "sbatch --parsable -p main --gres=gpu:1g.10gb:1 --mem=50 -o /dev/null --wrap 'sleep 1200'"
    job_ids = [as_user("ada", "hpc-controller", f"cd /tmp && {ask}").stdout.strip() for _ in range(2)]
    comes(lambda: job_states(*job_ids) == ["RUNNING", "PENDING"])
    comes(lambda: run("hpc-controller", f"squeue -h -j {job_ids[1]} -o %r") == "QOSMaxGRESPerUser")
    run("hpc-controller", "scancel -u ada")


def test_students_log_in_to_the_login_node(provisioned: dict[str, Any]) -> None:
    granted = hyperscaler("access", "add", LAB, "cyd", "--ttl", "2h", "--json").json()
    assert granted["user"]["nodes"] == [LOGIN]
    done = as_user("cyd", LOGIN, "cat /proc/self/cgroup; srun -N1 hostname")
    group, host = done.stdout.split()
    assert re.fullmatch(r"0::/user.slice/user-\d+.slice/session-\w+.scope", group), done.stderr
    assert host in COMPUTE
    assert as_user("cyd", "hpc-controller", "true").returncode == 255


def test_others_are_out_of_sight(provisioned: dict[str, Any]) -> None:
    job = as_user("ada", "hpc-controller", "sbatch --parsable --mem=50 -o /dev/null --wrap 'sleep 1200'").stdout.strip()
    assert run("hpc-controller", f"squeue -h -j {job} -o %u") == "ada"
    look = f"squeue -h; scontrol show job {job}; {{ sacct -anX -o User; ps -e -o user=; }}"
    seen = as_user("cyd", LOGIN, look)
    assert set(seen.stdout.split()) == {"cyd"}, seen.stdout
    assert as_user("cyd", LOGIN, "cat /proc/1/cmdline").returncode != 0
    assert int(run(LOGIN, "ps -e -o pid= | wc -l")) > 10  # labadmin is in the group adm
    connect = "import socket; socket.socket(socket.AF_UNIX).connect('/run/mysqld/mysqld.sock')"
    assert "PermissionError" in as_user("ada", "hpc-controller", attack.python(connect)).stderr
    run("hpc-controller", "scancel -u ada")


def test_a_full_disk_is_the_student_s_own(provisioned: dict[str, Any]) -> None:
    error, taken = as_user("ada", "hpc-controller", attack.fill_disk()).stdout.split()
    assert error == "EDQUOT"
    assert 2**29 < int(taken) <= 2**30  # a quarter of half of 8 GiB, less what the home directory has
    assert int(run("hpc-controller", "df --output=avail -B1 / | tail -1")) > 2**31
    # Others write there: labadmin, the database, slurmctld.
    job = run("hpc-controller", "echo x >~/fits && sbatch --parsable --wait -N1 --mem=50 -o ~/out --wrap 'echo x'")
    comes(lambda: run("hpc-controller", f"sacct -nXP -j {job} -o State") == "COMPLETED")
    assert as_user("ada", "hpc-controller", attack.empty_disk()).returncode == 0


def test_a_hostile_student_stops_nobody(provisioned: dict[str, Any]) -> None:
    """On the controller, which is the worst place: connections, memory and processes without end, all at once."""
    uid = run("hpc-controller", "id -u ada")
    group = f"/sys/fs/cgroup/user.slice/user-{uid}.slice"
    with ExitStack() as ending:
        # All at once: of processes that fork without end, signals to one after the other leave some.
        kill = f"if cd {group}; then echo 1 >cgroup.kill; fi"
        ending.callback(run, "hpc-controller", f"sudo -n sh -c '{kill}'")

        def begin(command: str) -> subprocess.Popen[str]:
            started = subprocess.Popen([*ssh_as("ada"), "hpc-controller", command], stdout=subprocess.PIPE, text=True)
            ending.callback(started.wait)
            ending.callback(started.kill)
            return started

        begin(attack.memory_hog())
        for command in (attack.connections(90, "192.168.100.10"), attack.fork_bomb(900)):
            started = begin(command)
            assert started.stdout is not None
            assert started.stdout.readline() == "begun\n"
        began = time.monotonic()
        assert hyperscaler("ssh", LAB, "hpc-controller", "--", "true").code == 0
        print(f"a login of labadmin took {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        assert as_user("cyd", LOGIN, "srun -N1 hostname").stdout.strip() in COMPUTE
        print(f"another student's srun took {time.monotonic() - began:.1f} s")
        # Refused forks are counted at the session up to Linux 6.10, later at the group that has the limit.
        events = f"cat {group}/pids.events {group}/*/pids.events; grep 'oom_kill ' {group}/memory.events"
        comes(lambda: counted(run("hpc-controller", events)).keys() >= {"max", "oom_kill"})
    assert run("hpc-controller", "systemctl --failed --plain --no-legend") == ""


def test_jobs_are_kept_apart(provisioned: dict[str, Any]) -> None:
    """A job that forks without end and ignores SIGTERM, on a node that others use next."""
    node = COMPUTE[0]
    submit = f"sbatch --parsable -w {node} --mem=400 -o /dev/null <<'END'\n#!/bin/sh\n{attack.fork_bomb(300)}\nEND"
    submitted = as_user("ada", "hpc-controller", submit)
    job = submitted.stdout.strip()
    assert job.isdigit(), submitted.stderr
    processes = "ps -u ada -o pid= | wc -l"
    comes(lambda: int(run(node, processes)) >= 100)
    assert int(run(node, processes)) <= 512
    run("hpc-controller", f"scancel {job}")
    comes(lambda: not run("hpc-controller", f"squeue -h -j {job} || true"))
    group = "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/.."
    look = f'ls -A /tmp; touch /tmp/mine; cat {group}/memory.max {group}/memory.swap.max; bash -c "ulimit -Hu"'
    done = as_user("cyd", LOGIN, f"srun -w {node} --mem=50 sh -c '{look}'")
    memory, swap, processes = done.stdout.split()
    assert (memory, processes) == (str(50 * 2**20), "512"), done.stdout + done.stderr
    assert swap in (memory, "0")  # Slurm 22.05 counts what may be swapped with what may be in memory, 24.11 allows none
    assert run(node, "ls /tmp/mine || true; pgrep -u ada || true") == ""


def test_every_node_has_a_certificate_that_the_others_trust(provisioned: dict[str, Any]) -> None:
    for name in NODES:
        assert run(name, "sudo -n stat -c '%a %U' /etc/hyperscaler/tls/node.key") == "600 root"
    serving = "openssl s_server -quiet -accept 8443 -cert node.crt -key node.key"
    unit = "sudo -n systemd-run --quiet --unit=tls-test --property=WorkingDirectory=/etc/hyperscaler/tls"
    run("hpc-compute-1", f"{unit} {serving}; sleep 2")
    ask = "openssl s_client -connect {host}:8443 -verify_return_error -verify_hostname {host} </dev/null 2>&1"
    try:
        for host in ("hpc-compute-1", f"hpc-compute-1.hpc.{LAB}.internal"):
            assert "Verify return code: 0 (ok)" in run("hpc-controller", ask.format(host=host))
    finally:
        run("hpc-compute-1", "sudo -n systemctl stop tls-test")


def test_rotate_munge_under_a_running_job(provisioned: dict[str, Any]) -> None:
    wait = "until [ -e ~/goal ]; do sleep 1; done; echo survived"
    job = run("hpc-controller", f"sbatch --parsable -N1 -o ~/survivor --mem=50 --wrap '{wait}'")
    comes(lambda: job_states(job) == ["RUNNING"])
    node = run("hpc-controller", f"squeue -h -j {job} -o %N")
    before = {name: run(name, "sudo -n sha256sum /etc/munge/munge.key") for name in NODES}
    started = time.monotonic()
    assert hyperscaler("rotate", LAB, "munge", "--yes", "--json").json()["rotated"] is True
    print(f"rotate munge took {time.monotonic() - started:.0f} s")
    after = {name: run(name, "sudo -n sha256sum /etc/munge/munge.key") for name in NODES}
    assert len(set(after.values())) == 1
    assert not set(after.values()) & set(before.values())
    assert job_states(job) == ["RUNNING"]
    run(node, "touch ~/goal")
    comes(lambda: run("hpc-controller", f"sacct -n -X -P -j {job} -o State") == "COMPLETED")
    assert run(node, "cat ~/survivor") == "survived"


def test_rotate_tls(provisioned: dict[str, Any]) -> None:
    issuer = "openssl x509 -noout -issuer -in /etc/hyperscaler/tls/node.crt"
    before = run("hpc-compute-1", issuer)
    started = time.monotonic()
    hyperscaler("rotate", LAB, "tls", "--yes")
    print(f"rotate tls took {time.monotonic() - started:.0f} s")
    assert run("hpc-compute-1", issuer) != before
    assert run("hpc-compute-1", "grep -c BEGIN /etc/hyperscaler/tls/ca.crt") == "1"
    assert run("hpc-compute-1", "ls /usr/local/share/ca-certificates") == "hyperscaler.crt"
    assert run("hpc-compute-1", "openssl verify -CApath /etc/ssl/certs /etc/hyperscaler/tls/node.crt").endswith("OK")


def test_rotate_ssh_killed_half_way(provisioned: dict[str, Any], tmp_path: Path) -> None:
    """The tool dies between the phases; the next run goes on. The old key and the old certificates let nobody in."""
    paths = Home.default().lab(LAB)
    old = tmp_path / "old"
    old.write_bytes(paths.ssh_key.read_bytes())
    old.chmod(0o600)
    handed = {file.name: file.read_bytes() for file in (paths.handouts / "ada").iterdir()}
    argv = [str(COMMAND), "rotate", LAB, "ssh", "--yes"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as killed:
        assert killed.stderr is not None
        for line in killed.stderr:
            if "rotate    ssh drop" in line:
                killed.kill()
    assert any("rotation of ssh" in line for line in hyperscaler("status", LAB, "--json").json()["problems"])
    done = hyperscaler("rotate", LAB, "ssh", "--yes", "--json").json()
    assert (done["finished"], sorted(done["hand_again"])) == (["ssh"], ["ada", "bob", "cyd"])
    assert hyperscaler("ssh", LAB, "hpc-compute-1", "--", "hostname").stdout.strip() == "hpc-compute-1"
    (tmp_path / "config").write_text(paths.ssh_config.read_text().replace(f'"{paths.ssh_key}"', f'"{old}"'))
    argv = ["ssh", "-F", str(tmp_path / "config"), "-o", "BatchMode=yes", "hpc-compute-1", "true"]
    refused = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert refused.returncode == 255
    assert "Permission denied" in refused.stderr
    ada = as_user("ada", "hpc-controller", "id -un")
    assert (ada.returncode, ada.stdout.strip()) == (0, "ada"), ada.stderr
    fresh = {name: (paths.handouts / "ada" / name).read_bytes() for name in handed}
    for name, content in handed.items():
        (paths.handouts / "ada" / name).write_bytes(content)
    stale = as_user("ada", "hpc-controller", "true")
    assert stale.returncode == 255
    for name, content in fresh.items():
        (paths.handouts / "ada" / name).write_bytes(content)


def test_revoked_access_ends_at_once(provisioned: dict[str, Any]) -> None:
    home = Home.default().lab(LAB).handouts / "ada"
    kept = {name: (home / name).read_bytes() for name in ("id_ed25519", "id_ed25519-cert.pub", "known_hosts", "config")}
    hyperscaler("access", "revoke", LAB, "ada")
    assert run("hpc-controller", "squeue -h -u ada") == ""
    for name, content in kept.items():
        home.mkdir(mode=0o700, exist_ok=True)
        (home / name).write_bytes(content)
        (home / name).chmod(0o600)
    refused = as_user("ada", "hpc-controller", "true")
    assert refused.returncode == 255
    assert "Permission denied" in refused.stderr
    users = {user["name"]: user["revoked"] for user in hyperscaler("access", "list", LAB, "--json").json()["users"]}
    assert users == {"ada": True, "bob": False, "cyd": False}


def test_access_ends_by_itself(provisioned: dict[str, Any]) -> None:
    """The node ends it, without any command of ours: session, job, and what ignores SIGTERM."""
    hyperscaler("access", "add", LAB, "eve", "--ttl", "180s", "--node", "hpc-controller")
    stubborn = "trap '' TERM; while :; do sleep 1; done"
    with subprocess.Popen([*ssh_as("eve"), "hpc-controller", stubborn], stdin=subprocess.DEVNULL) as session:
        job = as_user(
            "eve", "hpc-controller", f'cd /tmp && sbatch --parsable --mem=50 -o /dev/null --wrap "{stubborn}"'
        )
        assert job.returncode == 0, job.stderr
        as_user("eve", "hpc-controller", f'setsid sh -c "{stubborn}" >/dev/null 2>&1 </dev/null &')
        assert int(run("hpc-controller", "pgrep --count --uid eve")) >= 3
        comes(lambda: not run("hpc-controller", "squeue -h -u eve; pgrep --uid eve || true"))
        assert session.wait(timeout=PATIENCE) != 0
    for name in COMPUTE:
        assert run(name, "pgrep --uid eve || true") == ""
    assert as_user("eve", "hpc-controller", "true").returncode == 255
    record = run("hpc-controller", f"sacct -n -X -P -j {job.stdout.strip()} -o State")
    # By scancel, or by the kill that follows: Slurm notes whichever its step daemon sees first.
    assert record.startswith(("CANCELLED", "FAILED")), record
    assert "left" not in run("hpc-controller", "sudo -n journalctl -o cat -u hyperscaler-ends -n 5")
    # The next run of a playbook counts her among the former users.
    hyperscaler("access", "add", LAB, "fay", "--ttl", "1h")
    assert run("hpc-controller", "sacctmgr -nP show associations user=eve format=user") == ""
    assert not (Home.default().lab(LAB).handouts / "eve").exists()
    hyperscaler("access", "revoke", LAB, "fay")


@pytest.mark.thorough
@pytest.mark.parametrize("name", exercise_solutions.SLURM)
def test_exercises_are_solved_by_what_solves_them(provisioned: dict[str, Any], name: str) -> None:
    exercise_solutions.prove(LAB, name)


@pytest.mark.thorough
def test_a_student_does_an_exercise_of_their_own(provisioned: dict[str, Any]) -> None:
    """A job whose name looks like an answer has no points."""
    hyperscaler("access", "add", LAB, "gil", "--ttl", "1h")
    words = (LAB, "first-job", "--user", "gil", "--json")
    hyperscaler("exercise", "start", *words)
    assert hyperscaler("exercise", "grade", *words, check=False).json()["points"] == 0
    job = "cd /tmp && sbatch --wait --mem=50 -o /dev/null --time=5 --wrap hostname"
    assert as_user("gil", LOGIN, f"{job} --job-name='first-job|COMPLETED'").returncode == 0
    assert hyperscaler("exercise", "grade", *words, check=False).json()["points"] == 0
    assert as_user("gil", LOGIN, f"{job} --job-name=first-job").returncode == 0
    comes(lambda: hyperscaler("exercise", "grade", *words, check=False).json()["points"] == 10)
    refused = hyperscaler("exercise", "start", LAB, "drained-node", "--user", "gil", check=False)
    assert (refused.code, "takes an admin" in refused.stderr) == (2, True)
    lacking = hyperscaler("exercise", "start", LAB, "pending-pod", check=False)
    assert (lacking.code, "it lacks a Kubernetes cluster" in lacking.stderr) == (2, True)
    hyperscaler("access", "revoke", LAB, "gil")


def test_secrets_are_private(provisioned: dict[str, Any], lab_file: Path) -> None:
    """With a student's and an admin's keys handed out and revoked, too."""
    asked = {"provision": str(provisioned)}
    for words in (["status", LAB], ["access", "list", LAB], ["history", LAB], ["gpu", "map", LAB], ["plan", lab_file]):
        asked[" ".join(map(str, words))] = hyperscaler(*words, "--json").stdout
    asked["inventory"] = hyperscaler("inventory", LAB, "--format", "json").stdout
    check_secrets(LAB, NODES, asked)


def test_scaling_out_applies_only_the_difference(provisioned: dict[str, Any], lab_file: Path) -> None:
    lab_file.write_text(lab_text(count=3))
    plan = hyperscaler("plan", lab_file, "--json").json()
    assert [(change["action"], change["id"]) for change in plan["changes"]] == [
        ("update", "firewall/lab"),  # whose packets are the node's own
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


def test_scaling_in_removes_the_node_again(provisioned: dict[str, Any], lab_file: Path) -> None:
    lab_file.write_text(lab_text())
    hyperscaler("provision", lab_file, "--yes")
    assert sorted(run("hpc-controller", "sinfo -h -N -p main -o %N").split()) == list(COMPUTE)
    assert not (Home.default().lab(LAB).disks / "hpc-compute-3.qcow2").exists()


def test_a_partition_comes_while_a_job_runs(provisioned: dict[str, Any], lab_file: Path) -> None:
    job = run("hpc-controller", "cd /tmp; sbatch --parsable -N2 -o /dev/null --wrap 'srun sleep 1500'")
    comes(lambda: job_states(job) == ["RUNNING"])
    steps = "pgrep slurmstepd"
    before = set(run("hpc-compute-1", steps).split())
    lab_file.write_text(lab_text(partitions="main, debug, more"))
    hyperscaler("configure", lab_file)  # `provision` would wait for the job: its probe wants all nodes
    assert sorted(run("hpc-controller", "sinfo -h -N -p more -o %N").split()) == list(COMPUTE)
    assert run(LOGIN, "sinfo -h -p more -o %P") == "more"
    assert job_states(job) == ["RUNNING"]
    assert before <= set(run("hpc-compute-1", steps).split())
    assert "Restarts=0" in run("hpc-controller", f"scontrol show job {job}")
    run("hpc-controller", f"scancel {job}")


@pytest.mark.skipif(SlurmFeature.REST not in SLURM_FEATURES, reason="needs a release with slurmrestd")
def test_slurmrestd_goes_by_the_token_alone(provisioned: dict[str, Any]) -> None:
    """A student's token is a student's, whatever name comes with it; who makes tokens is root; and no port is open."""
    assert "denied" in guest(LAB, "hpc-controller").run("sudo -n -u student scontrol token 2>&1").stdout
    assert guest(LAB, "hpc-controller").run("sudo -n -u student cat /etc/slurm/jwt_hs256.key").rc != 0
    assert run("hpc-controller", "ss -Hltnp | grep -c slurmrestd || true") == "0"
    token = run("hpc-controller", "sudo -n scontrol token username=student lifespan=600").partition("=")[2]
    answers = guest(LAB, "hpc-controller").run(f"sudo -n -u student python3 -IS - {token} <<'EOF'\n{DRAIN}EOF").stdout
    assert len(answers.split()) == 3 and "200" not in answers.split()
    assert run("hpc-controller", "sinfo -h -N -t drain,draining -o %N") == ""


def test_destroy_leaves_nothing_behind(provisioned: dict[str, Any], before: dict[str, list[str]]) -> None:
    hyperscaler("destroy", LAB, "--yes")
    assert left_behind(before, host_snapshot()) == {}
    assert hyperscaler("status", LAB, "--json", check=False).code == 2
