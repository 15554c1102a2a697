"""Real ansible-runner on small playbooks that run on this machine: results, errors, deadline, nothing left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.core.errors import ConfigureError
from emulator.core.paths import LabPaths
from emulator.core.waiting.pace import Pace
from emulator.guests.configure import playbook as under_test
from emulator.guests.configure.model import TaskStatus
from emulator.guests.configure.playbook import PlaybookRun, end_work, run_playbook
from emulator.guests.inventory.model import AnsibleInventory, InventoryGroup, InventoryHost
from emulator.labfile.model import ClusterKind

SECRET = "do-not-show-this"


def local_inventory() -> AnsibleInventory:
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    return AnsibleInventory((InventoryHost("here", local),), (InventoryGroup("hpc", hosts=("here",)),))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[[str], PlaybookRun]:
    def make(tasks: str) -> PlaybookRun:
        playbook = tmp_path / "play" / "play.yml"
        playbook.parent.mkdir(exist_ok=True)
        playbook.write_text(f"- hosts: hpc\n  gather_facts: false\n  tasks:\n{tasks}")
        (playbook.parent / "ansible.cfg").write_text("[defaults]\n")
        return PlaybookRun(playbook, local_inventory(), LabPaths(tmp_path / "lab"), "hpc", {"secrets_dir": "/nowhere"})

    return make


def quiet(node: str, task: str, status: TaskStatus) -> None:
    del node, task, status


def processes_of(run: PlaybookRun) -> list[str]:
    """Other labs may be under way on this machine: a run of ours has its own directory as HOME."""
    mine = os.fsencode(f"HOME={run.directory}")
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mine in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
        except OSError:
            continue
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; one that is dead and not yet collected by init does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_events_changes_and_private_files(
    make_run: Callable[[str], PlaybookRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/tmp/agent-of-the-user")
    monkeypatch.setenv("ANSIBLE_NOT_OURS", SECRET)
    run = make_run(
        "    - name: Look around\n"
        "      ansible.builtin.command: env\n"
        "      register: seen\n"
        "    - name: Say it\n"
        "      ansible.builtin.debug: {var: seen.stdout}\n"
    )
    heard: list[tuple[str, str, TaskStatus]] = []
    result = run_playbook(
        run, timeout=60, on_event=lambda node, task, status: heard.append((node, task, status)), cancelled=bool
    )
    assert result.ok and result.changed == {"here": 1} and result.failures == ()
    assert ("here", "Look around", TaskStatus.STARTED) in heard
    assert ("here", "Look around", TaskStatus.CHANGED) in heard
    assert result.log is not None
    log = result.log.read_text()
    assert "PATH=" in log
    assert SECRET not in log and "agent-of-the-user" not in log
    assert stat.S_IMODE(run.directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((run.directory / "inventory.yaml").stat().st_mode) == 0o600
    assert not (run.directory / "cp").exists() and not (run.directory / "tmp").exists()


def test_a_failed_task_names_host_task_message_and_log(
    make_run: Callable[[str], PlaybookRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("    - name: Break\n      ansible.builtin.fail: {msg: the disk is on fire}\n")
    (run.playbook.parent / "playbooks").mkdir()
    run.playbook.rename(run.playbook.parent / "playbooks" / "playbook-hpc.yml")
    (run.playbook.parent / "ansible.cfg").rename(run.playbook.parent / "playbooks" / "ansible.cfg")
    monkeypatch.setattr(under_test, "share_dir", lambda: run.playbook.parent)
    with pytest.raises(ConfigureError) as caught:
        under_test.configure_cluster(ClusterKind.HPC, run.inventory, run.paths, timeout=60)
    assert caught.value.where == "here"
    assert caught.value.what == "task 'Break' failed: the disk is on fire"
    assert "artifacts" in caught.value.fix


def test_a_playbook_that_cannot_be_read_fails_without_a_task(
    make_run: Callable[[str], PlaybookRun],
) -> None:
    result = run_playbook(make_run("    - nonsense: [\n"), timeout=60, on_event=quiet, cancelled=bool)
    assert not result.ok and result.failures == ()


SLEEPER = (
    "    - name: Sleep\n"
    "      ansible.builtin.shell: setsid sh -c 'echo $$ > {{ secrets_dir }}; exec sleep 600' & sleep 600\n"
)


@pytest.mark.parametrize("reason", ["deadline", "cancelled"])
def test_the_end_of_a_run_is_the_end_of_all_it_started(
    make_run: Callable[[str], PlaybookRun], tmp_path: Path, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(under_test, "LONGEST_TASK", 2.0)
    marker = tmp_path / "pid"
    base = make_run(SLEEPER)
    run = PlaybookRun(base.playbook, base.inventory, base.paths, "hpc", {"secrets_dir": str(marker)})
    since: list[float] = []

    def begun() -> bool:
        if marker.exists() and marker.read_text().strip() and not since:
            since.append(time.monotonic())
        return bool(since)

    with pytest.raises(ConfigureError, match=r"at here: Sleep") as caught:
        if reason == "cancelled":
            monkeypatch.setattr(under_test, "LONGEST_TASK", 600.0)
            run_playbook(run, timeout=120, on_event=quiet, cancelled=begun)
        else:
            run_playbook(run, timeout=10, on_event=quiet, cancelled=bool)
    assert ("it was cancelled" if reason == "cancelled" else "it was given up after ") in caught.value.what
    if marker.exists():
        assert not alive(int(marker.read_text()))
    assert processes_of(run) == []


def test_a_run_whose_tasks_end_is_not_given_up_at_its_time(make_run: Callable[[str], PlaybookRun]) -> None:
    """Half a second is its time. Ansible alone takes longer to start, and its tasks end one after the other."""
    run = make_run("".join(f"    - name: Step {number}\n      ansible.builtin.meta: noop\n" for number in range(3)))
    slow = dataclasses.replace(run, pace=Pace(factor=300.0))
    assert run_playbook(slow, timeout=0.5, on_event=quiet, cancelled=bool).ok


def test_ansible_works_at_the_host_s_pace(make_run: Callable[[str], PlaybookRun], tmp_path: Path) -> None:
    base = make_run("    - ansible.builtin.meta: noop\n")
    slow = dataclasses.replace(base, pace=Pace(factor=2.5, forks=5))
    environment = under_test._environment(slow, "identity", tmp_path)
    assert (environment["ANSIBLE_FORKS"], environment["ANSIBLE_TIMEOUT"]) == ("5", "150")


def test_an_exception_leaves_nothing_running(make_run: Callable[[str], PlaybookRun], tmp_path: Path) -> None:
    base = make_run(SLEEPER)
    run = PlaybookRun(base.playbook, base.inventory, base.paths, "hpc", {"secrets_dir": str(tmp_path / "pid")})

    def interrupted() -> bool:
        if (tmp_path / "pid").exists():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run_playbook(run, timeout=60, on_event=quiet, cancelled=interrupted)
    assert processes_of(run) == []


def test_what_a_killed_command_left_at_work_is_ended(make_run: Callable[[str], PlaybookRun], tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    base = make_run(SLEEPER)
    run = PlaybookRun(base.playbook, base.inventory, base.paths, "hpc", {"secrets_dir": str(marker)})
    killed = os.fork()
    if killed == 0:
        with contextlib.suppress(BaseException):
            run_playbook(run, timeout=120, on_event=quiet, cancelled=bool)
        os._exit(1)
    deadline = time.monotonic() + 60
    while not (marker.exists() and marker.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    assert processes_of(run) != []
    other = LabPaths(tmp_path / "other")
    assert end_work(other) == set()
    assert end_work(base.paths)
    assert processes_of(run) == []


def test_logs_of_old_runs_are_pruned(make_run: Callable[[str], PlaybookRun], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "KEPT_RUNS", 1)
    run = make_run("    - ansible.builtin.meta: noop\n")
    logs = [run_playbook(run, timeout=60, on_event=quiet, cancelled=bool).log for _ in range(3)]
    kept = sorted((run.directory / "artifacts").iterdir())
    assert len(kept) <= 2
    assert logs[-1] is not None and logs[-1].parent in kept
