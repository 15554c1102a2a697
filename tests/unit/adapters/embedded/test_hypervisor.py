"""What the private libvirtd makes of a directory that is damaged or gone, on a machine of fakes."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from emulator.adapters.control_groups.guests import GuestGroups
from emulator.adapters.embedded import entry, hypervisor, network_namespace
from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor
from emulator.adapters.embedded.processes import EmbeddedProcess
from emulator.core.errors import ConflictError, HypervisorError
from emulator.core.ports import DaemonPresence
from emulator.core.ports.guest_accounts import GuestAccount
from tests.support.fake_runner import Call, FakeRunner

NAME = "hs-demo"
GUESTS_NAMESPACE = 4026532000


class Machine:
    """Processes and one namespace; the directory is a real one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: dict[str, EmbeddedProcess] = {}
        self.run_inode = 0
        self.namespace: int | None = None
        self.ended: list[str] = []
        self._next = 100
        self.runner = FakeRunner({"": self._run})

    def _spawn(self, name: str) -> None:
        self._next += 1
        self.processes[name] = EmbeddedProcess(
            self._next, name, self.namespace or 0, self._next, roots_network=True, runs_as_root=True
        )

    # What replaces the adapter's parts.
    def _run(self, call: Call) -> None:
        """The only command that the fakes leave over: the start of libvirtd."""
        words = [str(word) for word in call.argv]
        self.entered = entry.parse(words[words.index(entry.__file__) + 1 :])
        assert self.entered.program[0] == "libvirtd", call.argv
        self.run_inode = (self.directory / "run").stat().st_ino
        self._spawn("libvirtd")

    def boot_guest(self) -> None:
        self._spawn("qemu-system-x86")

    def find(self, directory: Path) -> tuple[EmbeddedProcess, ...]:
        return tuple(self.processes.values())

    def end(self, processes: Sequence[EmbeddedProcess], directory: Path, *, patience: float) -> tuple[()]:
        for process in processes:
            self.ended.append(process.name)
            self.processes.pop(process.name, None)
        return ()

    def answers(self) -> bool:
        run = self.directory / "run"
        return "libvirtd" in self.processes and run.exists() and run.stat().st_ino == self.run_inode


class FakeNamespace:
    def __init__(self, machine: Machine) -> None:
        self.name, self.path = NAME, Path("/run/netns", NAME)
        self._machine = machine

    def inode(self) -> int | None:
        return self._machine.namespace

    def is_ours(self) -> bool:
        return self._machine.namespace is not None

    def ensure(self, *, adopt: bool) -> None:
        self._machine.namespace = self._machine.namespace or GUESTS_NAMESPACE

    def attach(self, pid: int) -> None:
        self._machine.namespace = next(item.netns for item in self._machine.processes.values() if item.pid == pid)

    def delete(self) -> None:
        self._machine.namespace = None


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path / "hypervisor")
    monkeypatch.setattr(hypervisor, "find_processes", machine.find)
    monkeypatch.setattr(hypervisor, "end_processes", machine.end)
    monkeypatch.setattr(hypervisor, "_is_root", lambda: True)
    monkeypatch.setattr(network_namespace, "_NOTES", tmp_path / "notes")
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr("shutil.which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(EmbeddedHypervisor, "_answers", lambda self: machine.answers())
    return machine


@pytest.fixture
def daemon(machine: Machine) -> EmbeddedHypervisor:
    daemon = EmbeddedHypervisor(machine.directory, NAME, machine.runner)
    daemon._netns = FakeNamespace(machine)  # type: ignore[assignment]
    daemon._groups = GuestGroups(machine.directory / "no control groups")
    return daemon


@pytest.fixture
def running(machine: Machine, daemon: EmbeddedHypervisor) -> EmbeddedHypervisor:
    """With a guest."""
    daemon.start()
    machine.boot_guest()
    assert daemon.presence() is DaemonPresence.UP
    return daemon


def marker(machine: Machine) -> Path:
    return machine.directory / "embedded.json"


def test_libvirtd_is_started_for_the_lab_s_account(machine: Machine, tmp_path: Path) -> None:
    disks, images, account = tmp_path / "disks", tmp_path / "images", GuestAccount(2113929217, 2113929216)
    daemon = EmbeddedHypervisor(
        machine.directory, NAME, machine.runner, account=lambda: account, writable=[disks], readable=[images]
    )
    daemon._netns = FakeNamespace(machine)  # type: ignore[assignment]
    daemon._groups = GuestGroups(machine.directory / "no control groups")
    daemon.start()
    entered = machine.entered
    assert (entered.netns, entered.directory) == (f"/run/netns/{NAME}", str(machine.directory))
    assert (entered.cgroup, entered.group) == (None, account.gid)
    assert entered.shown == {str(disks): True, str(images): False}
    conf = (machine.directory / "etc" / "qemu.conf").read_text().splitlines()
    assert {f'user = "+{account.uid}"', f'group = "+{account.gid}"', "max_processes = 2048"} <= set(conf)
    assert {"seccomp_sandbox = 1", "clear_emulator_capabilities = 1", "dynamic_ownership = 0"} <= set(conf)


@pytest.mark.parametrize(
    ("words", "cgroup", "group", "shown"),
    [
        ([], None, None, {}),
        (["#", "@7"], "", 7, {}),
        (["#/sys/fs/cgroup/x", "+/a", "=/b"], "/sys/fs/cgroup/x", None, {"/a": True, "/b": False}),
    ],
)
def test_the_words_for_the_namespaces(
    words: list[str], cgroup: str | None, group: int | None, shown: dict[str, bool]
) -> None:
    parsed = entry.parse(["/run/netns/n", "/lab", *words, "libvirtd", "-d", "@7"])
    assert parsed == ("/run/netns/n", "/lab", cgroup, group, shown, ["libvirtd", "-d", "@7"])


DAMAGE = {"empty": "", "cut off": '{"version": 1, "names', "not an object": "[1]", "without the name": "{}"}


@pytest.mark.parametrize("damage", [*DAMAGE, "gone"])
def test_a_damaged_marker_costs_no_guest_its_life_and_is_written_again(
    machine: Machine, running: EmbeddedHypervisor, damage: str
) -> None:
    whole, processes = marker(machine).read_text(), dict(machine.processes)
    if damage == "gone":
        marker(machine).unlink()
    else:
        marker(machine).write_text(DAMAGE[damage])
    assert running.presence() is DaemonPresence.DOWN, "something is missing, so that the next start is asked for"
    running.start()
    assert (machine.ended, machine.processes) == ([], processes)
    assert marker(machine).read_text() == whole
    assert running.presence() is DaemonPresence.UP


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_marker_is_written_again_after_a_reboot(
    machine: Machine, running: EmbeddedHypervisor, damage: str
) -> None:
    marker(machine).write_text(DAMAGE[damage])
    machine.processes.clear()
    machine.namespace = None
    assert running.presence() is DaemonPresence.DOWN
    running.start()
    assert running.presence() is DaemonPresence.UP


def test_a_damaged_marker_is_no_obstacle_to_the_end(machine: Machine, running: EmbeddedHypervisor) -> None:
    marker(machine).write_text("")
    running.stop()
    assert (machine.processes, machine.namespace, machine.directory.exists()) == ({}, None, False)


@pytest.mark.parametrize("marked", ["", '{"version": 1, "namespace": "hs-other"}'])
def test_foreign_files_are_reported_and_nothing_is_ended_or_removed(
    machine: Machine, running: EmbeddedHypervisor, marked: str
) -> None:
    marker(machine).write_text(marked)
    (machine.directory / "thesis.tex").write_text("years")
    with pytest.raises(ConflictError, match="contains foreign files"):
        running.start()
    assert machine.ended == []
    running.stop()
    assert (machine.directory / "thesis.tex").exists()


def test_the_marker_of_another_namespace_is_another_s(machine: Machine, running: EmbeddedHypervisor) -> None:
    marker(machine).write_text('{"version": 1, "namespace": "hs-other"}')
    with pytest.raises(ConflictError, match="contains foreign files"):
        running.start()
    assert machine.ended == []


def test_what_runs_without_its_directory_is_ended(machine: Machine, running: EmbeddedHypervisor) -> None:
    shutil.rmtree(machine.directory)
    running.start()
    assert machine.ended == ["libvirtd", "qemu-system-x86"]
    assert list(machine.processes) == ["libvirtd"]


def test_the_marker_is_on_the_disk_before_anything_else_is_made(
    machine: Machine, daemon: EmbeddedHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            seen.append(os.listdir(descriptor))

    monkeypatch.setattr("os.fsync", fsync)
    daemon.start()
    assert seen[0] == ["embedded.json"]
    assert json.loads(marker(machine).read_text()) == {"version": 1, "namespace": NAME}


def test_a_lost_name_of_the_namespace_is_something_that_a_start_brings_back(
    machine: Machine, running: EmbeddedHypervisor
) -> None:
    machine.namespace = None
    assert running.presence() is DaemonPresence.DOWN
    running.start()
    assert running.presence() is DaemonPresence.UP
    assert machine.namespace == GUESTS_NAMESPACE and not machine.ended


def broken_out(machine: Machine, netns: int, *, roots_network: bool) -> None:
    """A guest's QEMU that is in another network namespace, and found first."""
    guest = EmbeddedProcess(99, "qemu-system-x86", netns, 99, roots_network=roots_network, runs_as_root=False)
    machine.processes = {"broken out": guest} | machine.processes


def test_the_name_never_leads_where_a_guest_that_broke_out_went(machine: Machine, running: EmbeddedHypervisor) -> None:
    broken_out(machine, 4026539999, roots_network=False)
    running.start()
    assert machine.namespace == GUESTS_NAMESPACE
    machine.namespace = None  # the name was removed by hand
    running.start()
    assert machine.namespace == GUESTS_NAMESPACE


def test_processes_in_several_namespaces_of_root_s_are_no_matter_of_guessing(
    machine: Machine, running: EmbeddedHypervisor
) -> None:
    broken_out(machine, 4026539999, roots_network=True)
    both = r"several network namespaces: qemu-system-x86 \(99\), qemu-system-x86 \(102\)"
    with pytest.raises(ConflictError, match=both):
        running.start()
    assert machine.namespace == GUESTS_NAMESPACE


def test_a_process_that_ends_while_it_is_looked_at_leads_nowhere(
    machine: Machine, running: EmbeddedHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one may have its id by then."""
    monkeypatch.setattr(FakeNamespace, "attach", lambda _self, _pid: setattr(machine, "namespace", 4026539999))
    machine.namespace = None
    with pytest.raises(HypervisorError, match="ended while its network namespace was looked for"):
        running.start()


class Killed(BaseException):
    pass


@pytest.fixture
def long(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EmbeddedHypervisor:
    """One whose socket is reached by a short link, since its own path is too long; with a guest."""
    machine.directory = tmp_path / ("d" * 100) / "hypervisor"
    link = tmp_path / "notes" / "link"
    monkeypatch.setattr(EmbeddedHypervisor, "_short_link", lambda self: link)
    monkeypatch.setattr(EmbeddedHypervisor, "_answers", lambda self: machine.answers() and link.is_symlink())
    daemon = EmbeddedHypervisor(machine.directory, NAME, machine.runner)
    daemon._netns = FakeNamespace(machine)  # type: ignore[assignment]
    daemon._groups = GuestGroups(machine.directory / "no control groups")
    daemon.start()
    machine.boot_guest()
    assert daemon.presence() is DaemonPresence.UP and link.is_symlink()
    return daemon


def killed(*_words: object, **_options: object) -> None:
    raise Killed


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (hypervisor, "shared_notes"),
        (EmbeddedHypervisor, "_end_all"),
        (FakeNamespace, "delete"),
        (shutil, "rmtree"),
    ],
)
@pytest.mark.parametrize("lose", [False, True], ids=["", "without its directory"])
def test_no_kill_leaves_the_short_link_for_good(
    tmp_path: Path, machine: Machine, long: EmbeddedHypervisor, owner: object, step: str, lose: bool
) -> None:
    if lose:
        shutil.rmtree(machine.directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, step, killed)
        if not (lose and step == "rmtree"):
            with pytest.raises(Killed):
                long.stop()
    if long.presence() is not DaemonPresence.ABSENT:
        long.stop()
    assert long.presence() is DaemonPresence.ABSENT and not machine.directory.exists()
    assert not (tmp_path / "notes").exists()


def test_a_stop_that_was_cut_short_costs_no_guest_its_life_when_the_lab_is_brought_back(
    machine: Machine, long: EmbeddedHypervisor
) -> None:
    processes = dict(machine.processes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbeddedHypervisor, "_end_all", killed)
        with pytest.raises(Killed):
            long.stop()
    assert long.presence() is DaemonPresence.DOWN
    long.start()
    assert (machine.ended, machine.processes) == ([], processes)
    assert long.presence() is DaemonPresence.UP
