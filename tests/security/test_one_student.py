"""What one student cannot take from the others and from the management of a node: the settings that hold it.

The attacks themselves are in the labs' tests (`tests/e2e/test_slurm_lab.py`); these show that no way in is left out.
"""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest
import yaml

from emulator.core.data_files import share_dir

IMAGES = share_dir() / "config" / "images"
COMMON = IMAGES / "files" / "common" / "etc"
ROLES = share_dir() / "playbooks" / "roles"


def settings(path: Path) -> dict[str, str]:
    """`Key=value` lines of a unit, a drop-in or a template of Slurm's."""
    lines = (line.partition("=") for line in path.read_text().splitlines() if re.match(r"[A-Z]\w+=", line))
    return {name: value for name, _, value in lines}


def percent(text: str) -> int:
    assert text.endswith("%")
    return int(text[:-1])


def test_a_request_that_takes_all_memory_ends_slurmctld_alone_and_not_for_good() -> None:
    """Slurm has no bound for the environment of a job."""
    role = ROLES / "slurm_scheduler"
    bounds = settings(role / "templates" / "slurmctld.service.j2")
    assert (bounds["MemoryMax"], bounds["Restart"], bounds["StartLimitIntervalSec"]) == ("50%", "on-failure", "0")
    (start, *_) = yaml.safe_load((role / "tasks" / "main.yml").read_text())
    file, (unit,) = start["node_state"]["files"][0], start["node_state"]["units"]
    assert (
        file["path"] == "/etc/systemd/system/slurmctld.service.d/lab.conf"
        and file["path"] in start["vars"]["scheduler_files"]
    )
    assert "scheduler_files" in unit["reads"]
    assert "slurmctld.service.j2" in file["content"]


def test_a_student_gets_a_session_and_little_memory_with_it() -> None:
    """logind of Debian 13 opens no session for somebody whose /run/user/UID cannot be made, and then nobody gets in."""
    recipe = yaml.safe_load((IMAGES / "common.yaml").read_text())
    masked = {*recipe["mask"], *(unit for each in recipe["releases"].values() for unit in each["mask"])}
    assert "user-runtime-dir@.service" not in masked
    assert "user@.service" in masked
    logind = settings(COMMON / "systemd" / "logind.conf.d" / "lab.conf")
    assert logind["RuntimeDirectorySize"] == "1M"
    assert int(logind["RuntimeDirectoryInodesMax"]) <= 256


def test_people_together_leave_tasks_and_memory_to_the_node() -> None:
    units = COMMON / "systemd" / "system"
    one, people = settings(units / "user-.slice.d" / "lab.conf"), settings(units / "user.slice.d" / "lab.conf")
    management = settings(units / "management.slice")
    assert {"TasksMax", "MemoryMax", "CPUWeight", "MemorySwapMax"} <= set(one)
    assert percent(one["TasksMax"]) * 4 <= percent(people["TasksMax"])
    assert percent(one["MemoryMax"]) * 2 <= percent(people["MemoryMax"]) < 100
    # A fork for the tool's sshd, whatever people and the management itself have.
    assert percent(people["TasksMax"]) + percent(management["TasksMax"]) < 100
    assert int(management["CPUWeight"]) >= 10 * int(people["CPUWeight"])
    assert management["MemoryMin"].endswith("M")
    assert settings(units / "ssh.service")["Slice"] == "management.slice"
    # One victim of the kernel's in there is not the end of sshd.
    assert settings(units / "ssh.service")["OOMPolicy"] == "continue"


def test_nobody_but_the_tool_logs_in_outside_of_a_group() -> None:
    stack = [line.split() for line in (COMMON / "pam.d" / "sshd").read_text().splitlines() if line[:1] not in ("", "#")]
    session = [" ".join(words[1:]) for words in stack if words[0] == "session"]
    # Whoever has a uid of a user is not let in without a session; the rule before it passes over this one rule alone.
    assert session[-2:] == [
        "[success=1 default=ignore] pam_succeed_if.so quiet uid < 2000",
        "required pam_systemd.so class=user type=tty",
    ]
    recipe = yaml.safe_load((IMAGES / "common.yaml").read_text())
    assert "dbus" in recipe["packages"]
    assert any(package.startswith("libpam-systemd") for package in recipe["packages"])
    assert "systemd-logind.service" not in recipe["mask"]


def test_people_have_few_sessions_in_a_connection() -> None:
    people = (COMMON / "ssh" / "sshd_config.d" / "people.conf").read_text()
    assert "Match User *,!labadmin,!root\n    MaxSessions 8\n" in people


def test_the_disk_is_counted_from_its_first_mount_on() -> None:
    init = (IMAGES / "files" / "init").read_text()
    assert 'mount -t ext4 -o rw,usrquota "$root" /root' in init
    recipe = yaml.safe_load((IMAGES / "common.yaml").read_text())
    # Without the module such a file system cannot be mounted at all; in memory /tmp would not be counted.
    assert "quota_v2" in recipe["initrd"]["modules"]
    assert "tmp.mount" in recipe["mask"]


def test_processes_of_others_are_hidden_from_the_first_mount_on() -> None:
    init = (IMAGES / "files" / "init").read_text()
    assert "mount -t proc -o nosuid,nodev,noexec,hidepid=2,gid=4 proc /proc" in init
    assert "mount -o move /proc /root/proc" in init
    logind = COMMON / "systemd" / "system" / "systemd-logind.service.d" / "lab.conf"
    assert settings(logind)["SupplementaryGroups"] == "adm"


def test_slurm_and_its_database_agree_on_what_is_private() -> None:
    slurm = settings(ROLES / "slurm_common" / "templates" / "slurm.conf.j2")
    database = settings(ROLES / "slurm_controller" / "templates" / "slurmdbd.conf.j2")
    assert slurm["PrivateData"] == database["PrivateData"]
    assert {"jobs", "usage", "users", "accounts"} <= set(slurm["PrivateData"].split(","))


def test_a_job_has_its_own_tmp_no_swap_and_no_more_than_its_memory() -> None:
    slurm = settings(ROLES / "slurm_common" / "templates" / "slurm.conf.j2")
    assert slurm["JobContainerType"] == "job_container/tmpfs"
    # Slurm 22.05 starts no container without it.
    assert slurm["PrologFlags"] == "Contain"
    base = settings(ROLES / "slurm_common" / "templates" / "job_container.conf.j2")["BasePath"]
    assert not base.startswith(("/tmp", "/dev/shm", "/run"))
    cgroup = settings(ROLES / "slurm_common" / "templates" / "cgroup.conf.j2")
    for space in ("ConstrainCores", "ConstrainRAMSpace", "ConstrainSwapSpace"):
        assert cgroup[space] == "yes"
    assert cgroup["AllowedSwapSpace"] == "0"


@pytest.mark.parametrize("memory", [512, 16384])
def test_jobs_of_one_user_have_a_bounded_number_of_processes(memory: int) -> None:
    text = (ROLES / "slurm_compute" / "templates" / "slurmd.service.j2").read_text()
    unit = jinja2.Template(text).render(node_job_processes=memory)
    assert f"LimitNPROC={memory}\n" in unit
    slurm = settings(ROLES / "slurm_common" / "templates" / "slurm.conf.j2")
    assert "NPROC" in slurm["PropagateResourceLimitsExcept"].split(",")


def test_the_database_s_socket_is_for_slurm_alone() -> None:
    unit = (ROLES / "slurm_controller" / "templates" / "mariadb.service.j2").read_text()
    assert "ExecStartPre=+/usr/bin/install -d -m 0750 -o mysql -g slurm /run/mysqld\n" in unit
    assert "skip-networking" in (ROLES / "slurm_controller" / "templates" / "mariadb.cnf.j2").read_text()


def test_a_login_node_runs_no_service_of_slurm_but_sackd() -> None:
    task = yaml.safe_load((ROLES / "slurm_login" / "tasks" / "main.yml").read_text())[-1]["node_state"]
    assert task["units"] == "{{ munge_units }}"
    (kiosk,) = yaml.safe_load((ROLES / "slurm_login" / "tasks" / "sackd.yml").read_text())
    assert [unit["name"] for unit in kiosk["vars"]["sackd_units"]] == ["sackd"]
    assert kiosk["node_state"]["units"] == "{{ munge_units + sackd_units }}"
    assert yaml.safe_load((ROLES / "slurm_login" / "meta" / "main.yml").read_text())["dependencies"] == [
        {"role": "munge"},
        {"role": "slurm_common"},
    ]
