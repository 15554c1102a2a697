"""Real ansible-runner on small playbooks that run on this machine: results, errors, deadline, nothing left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
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
from tests.support.waiting import PATIENCE, Clock, alive, number_in

SECRET = "do-not-show-this"


def local_inventory() -> AnsibleInventory:
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    return AnsibleInventory((InventoryHost("here", local),), (InventoryGroup("hpc", hosts=("here",)),))


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where the product makes what does not fit into the lab's directory. No run may leave anything there."""
    del tmp_path  # pytest's own is elsewhere
    with tempfile.TemporaryDirectory(prefix="hs-", dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        yield Path(name)
        assert list(Path(name).iterdir()) == []


@pytest.fixture
def payloads(tmp_path: Path) -> Path:
    """Where Ansible's modules unpack themselves on this machine, which stands in for a guest. One that is killed leaves
    its directory behind."""
    directory = tmp_path / "payloads"
    directory.mkdir()
    return directory


@pytest.fixture
def make_run(tmp_path: Path, payloads: Path) -> Callable[[str], PlaybookRun]:
    def make(tasks: str) -> PlaybookRun:
        playbook = tmp_path / "play" / "play.yml"
        playbook.parent.mkdir(exist_ok=True)
        head = f"- hosts: hpc\n  gather_facts: false\n  environment: {{TMPDIR: {payloads}}}\n"
        playbook.write_text(f"{head}  tasks:\n{tasks}")
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
        run, timeout=PATIENCE, on_event=lambda node, task, status: heard.append((node, task, status)), cancelled=bool
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
        under_test.configure_cluster(ClusterKind.HPC, run.inventory, run.paths, timeout=PATIENCE)
    assert caught.value.where == "here"
    assert caught.value.what == "task 'Break' failed: the disk is on fire"
    assert "artifacts" in caught.value.fix


def test_a_playbook_that_cannot_be_read_fails_without_a_task(
    make_run: Callable[[str], PlaybookRun],
) -> None:
    result = run_playbook(make_run("    - nonsense: [\n"), timeout=PATIENCE, on_event=quiet, cancelled=bool)
    assert not result.ok and result.failures == ()


SLEEPER = (
    "    - name: Sleep\n"
    "      ansible.builtin.shell: setsid sh -c 'echo $$ > {{ secrets_dir }}; exec sleep 900' & sleep 900\n"
)


class Sleeper:
    """A run that starts a process and sleeps; the process's id is in `marker`."""

    def __init__(self, base: PlaybookRun, marker: Path) -> None:
        self.marker = marker
        self.run = PlaybookRun(base.playbook, base.inventory, base.paths, "hpc", {"secrets_dir": str(marker)})
        self._told = False

    def hear(self, node: str, task: str, status: TaskStatus) -> None:
        self._told |= (node, task, status) == ("here", "Sleep", TaskStatus.STARTED)

    def sleeps(self) -> bool:
        """Whether its process runs, and the task has been reported."""
        return self._told and self.marker.exists() and self.marker.read_text().endswith("\n")


@pytest.fixture
def sleeper(make_run: Callable[[str], PlaybookRun], tmp_path: Path) -> Sleeper:
    return Sleeper(make_run(SLEEPER), tmp_path / "pid")


@pytest.mark.parametrize("reason", ["it was given up after ", "it was cancelled"])
def test_the_end_of_a_run_is_the_end_of_all_it_started(
    sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    clock = Clock()
    monkeypatch.setattr(under_test, "time", clock)

    def cancelled() -> bool:
        if sleeper.sleeps():
            clock.now += 1e6 if "given up" in reason else 0.0
            return "cancelled" in reason
        return False

    with pytest.raises(ConfigureError, match=r"at here: Sleep") as caught:
        run_playbook(sleeper.run, timeout=10, on_event=sleeper.hear, cancelled=cancelled)
    assert reason in caught.value.what
    assert not alive(number_in(sleeper.marker))
    assert processes_of(sleeper.run) == []


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


def test_an_exception_leaves_nothing_running(sleeper: Sleeper) -> None:
    def interrupted() -> bool:
        if sleeper.sleeps():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run_playbook(sleeper.run, timeout=PATIENCE, on_event=sleeper.hear, cancelled=interrupted)
    assert not alive(number_in(sleeper.marker))
    assert processes_of(sleeper.run) == []


def test_what_a_killed_command_left_at_work_is_ended(
    sleeper: Sleeper, tmp_path: Path, temporary: Path, payloads: Path
) -> None:
    run = sleeper.run
    killed = os.fork()
    if killed == 0:
        with contextlib.suppress(BaseException):
            run_playbook(run, timeout=PATIENCE, on_event=quiet, cancelled=bool)
        os._exit(1)
    number_in(sleeper.marker)
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    assert processes_of(run) != []
    other = LabPaths(tmp_path / "other")
    assert end_work(other) == set()
    assert [path.name[:12] for path in temporary.iterdir()] == ["hyperscaler-"], "its control directory"
    assert end_work(run.paths)
    assert processes_of(run) == []
    assert list(temporary.iterdir()) == []
    assert not (run.directory / "cp").is_symlink()
    left = [path.name for path in payloads.iterdir()]
    assert left and all(name.startswith("ansible_") for name in left), "where the fixture sends them"


def test_a_control_directory_that_is_none_of_ours_stays(tmp_path: Path) -> None:
    """The link lies in the lab's directory; one that leads elsewhere was laid by hand."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("theirs")
    run = LabPaths(tmp_path / "lab").ansible / "hpc"
    run.mkdir(parents=True)
    (run / "cp").symlink_to(victim)
    assert end_work(LabPaths(tmp_path / "lab")) == set()
    assert (victim / "file").read_text() == "theirs"


def test_logs_of_old_runs_are_pruned(make_run: Callable[[str], PlaybookRun], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "KEPT_RUNS", 1)
    run = make_run("    - ansible.builtin.meta: noop\n")
    logs = [run_playbook(run, timeout=PATIENCE, on_event=quiet, cancelled=bool).log for _ in range(3)]
    kept = sorted((run.directory / "artifacts").iterdir())
    assert len(kept) <= 2
    assert logs[-1] is not None and logs[-1].parent in kept
