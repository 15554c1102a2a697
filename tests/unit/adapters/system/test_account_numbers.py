"""Which numbers are free on a host, and what still belongs to one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.adapters.system import account_numbers
from emulator.adapters.system.account_numbers import HostAccountNumbers
from emulator.core.errors import HostNotFitError
from emulator.core.ports.guest_accounts import RESERVED

(FIRST, LAST), (SMALL, SMALL_LAST) = RESERVED
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


class Host:
    """A `/proc`, an `/etc`, and a place where anybody may leave files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc, self.etc, self.tmp = root / "proc", root / "etc", root / "tmp"
        for directory in (self.proc / "self", self.proc / "sysvipc", self.etc, self.tmp):
            directory.mkdir(parents=True)
        self.users("0 0 4294967295\n")

    def users(self, text: str) -> None:
        for name in ("uid_map", "gid_map"):
            (self.proc / "self" / name).write_text(text)

    def process(self, pid: int, text: str) -> None:
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "status").write_text(text)

    def numbers(self, below: Callable[[int], int] = lambda _size: 0, *labs: Path) -> HostAccountNumbers:
        return HostAccountNumbers(lambda: labs, places=[self.tmp], proc=self.proc, etc=self.etc, below=below)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_number_is_drawn_at_random_and_the_next_free_one_taken(host: Host) -> None:
    assert host.numbers(lambda size: size - 1).draw(()) == LAST
    assert host.numbers(lambda size: size - 1).draw({LAST}) == FIRST, "after the last comes the first"
    assert host.numbers(lambda _size: 7).draw({FIRST + 7, FIRST + 8}) == FIRST + 9
    assert HostAccountNumbers(places=[host.tmp]).draw(()) != HostAccountNumbers(places=[host.tmp]).draw(())


def test_numbers_of_processes_are_left_out(host: Host) -> None:
    host.process(10, f"Name:\tqemu\nUid:\t0\t{FIRST}\t0\t0\nGid:\t0\t0\t0\t{FIRST + 1}\nGroups:\t4 {FIRST + 2} \n")
    assert host.numbers().draw(()) == FIRST + 3


def test_ranges_for_containers_are_left_out(host: Host) -> None:
    (host.etc / "subuid").write_text(f"# podman\nroot:{FIRST}:65536\nbroken\nnobody:x:1\n")
    (host.etc / "subgid").write_text(f"root:{FIRST + 65536}:10\n")
    assert host.numbers().draw(()) == FIRST + 65536 + 10


def test_users_of_the_host_are_left_out(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def user(number: int) -> object:
        if number == FIRST:
            return object()
        raise KeyError

    def group(number: int) -> object:
        return user(number - 1)

    monkeypatch.setattr("pwd.getpwuid", user)
    monkeypatch.setattr("grp.getgrgid", group)
    assert host.numbers().draw(()) == FIRST + 2


@needs_root
def test_numbers_in_labs_that_the_ledger_has_lost_are_left_out(host: Host) -> None:
    lab = host.root / "lab"
    for name, owner in (("disks/node.qcow2", FIRST), ("console/node.log", FIRST + 1)):
        (lab / name).parent.mkdir(parents=True)
        (lab / name).touch()
        os.chown(lab / name, owner, owner)
    os.chown(lab, 0, FIRST + 2)
    assert host.numbers(lambda _size: 0, lab, host.root / "gone").draw(()) == FIRST + 3


def test_a_container_with_few_users_has_a_range_too(host: Host) -> None:
    host.users("         0     100000      65536\n")
    assert host.numbers().draw(()) == SMALL
    everything = set(range(SMALL, SMALL_LAST + 1))
    with pytest.raises(HostNotFitError, match="no number is free"):
        host.numbers().draw(everything)
    host.users("0 100000 1000\n")
    with pytest.raises(HostNotFitError, match="do not exist in this container"):
        host.numbers().draw(())


def test_traces_are_processes_and_what_outlives_them(host: Host) -> None:
    host.process(10, f"Uid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}\nGid:\t5\t5\t5\t5\nGroups:\t\n")
    head = "key shmid perms size cpid lpid nattch uid gid cuid cgid atime dtime ctime rss swap"
    row = f"0 32769 1600 4096 9 9 0 5 5 {FIRST + 1} 5 0 0 0 0 0"
    (host.proc / "sysvipc" / "shm").write_text(f"{head}\n{row}\n")
    me = os.getuid()
    (host.tmp / "deep" / "er").mkdir(parents=True)
    (host.tmp / "deep" / "er" / "file").symlink_to("/etc/passwd")
    found = host.numbers().traces({FIRST, FIRST + 1, FIRST + 2, me})
    assert found == {FIRST: "process 10", FIRST + 1: "shared memory of System V (32769)", me: str(host.tmp / "deep")}


@pytest.mark.parametrize(("others", "found"), [("Z (zombie)", {}), ("S (sleeping)", {FIRST: "process 10"})])
def test_a_process_has_ended_when_all_its_threads_have(host: Host, others: str, found: dict[int, str]) -> None:
    """A guest that broke out can end QEMU's first thread, and go on in another."""
    host.process(10, f"State:\tZ (zombie)\nUid:\t{FIRST}\t{FIRST}\t{FIRST}\t{FIRST}\nGid:\t5\t5\t5\t5\n")
    for thread, state in ((10, "Z (zombie)"), (11, others)):
        (host.proc / "10" / "task" / str(thread)).mkdir(parents=True)
        (host.proc / "10" / "task" / str(thread) / "status").write_text(f"State:\t{state}\n")
    assert host.numbers().traces({FIRST}) == found


@needs_root
def test_files_of_users_and_of_groups_are_traces(host: Host) -> None:
    for name, owner in (("setuid", (FIRST, 0)), ("setgid", (0, FIRST + 1))):
        (host.tmp / name).touch(mode=0o4755)
        os.chown(host.tmp / name, *owner)
    found = host.numbers().traces({FIRST, FIRST + 1, FIRST + 2})
    assert found == {FIRST: str(host.tmp / "setuid"), FIRST + 1: str(host.tmp / "setgid")}


def test_what_cannot_be_looked_at_may_be_anybody_s(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files are no way to hide one."""
    monkeypatch.setattr(account_numbers, "_MOST_ENTRIES", 2)
    for name in "abc":
        (host.tmp / name).touch()
    assert host.numbers().traces({FIRST}) == {FIRST: f"perhaps a file: there are more than 2 in {host.tmp}"}


def test_one_directory_without_end_is_not_read_to_its_end(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account_numbers, "_MOST_ENTRIES", 2)
    looked: list[object] = []
    monkeypatch.setattr(account_numbers, "_status_of", looked.append)
    for number in range(50):
        (host.tmp / str(number)).touch()
    assert host.numbers().traces([FIRST])[FIRST].startswith("perhaps a file: there are more than 2")
    assert len(looked) == 2


class Entry:
    """One that was listed, and cannot be looked at."""

    path = "/tmp/file"

    def __init__(self, error: OSError) -> None:
        self.error = error

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        assert not follow_symlinks
        raise self.error


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (FileNotFoundError(2, "No such file or directory"), None),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_a_file_that_vanishes_meanwhile_is_no_trace(
    host: Host, monkeypatch: pytest.MonkeyPatch, error: OSError, found: str | None
) -> None:
    monkeypatch.setattr(account_numbers, "_entries_of", lambda _directory: [Entry(error)])
    traces = host.numbers().traces({FIRST})
    assert traces == {} if found is None else found in traces[FIRST]


def test_a_place_that_is_not_there_or_not_to_be_read(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.tmp.rmdir()
    assert host.numbers().traces({FIRST}) == {}
    host.tmp.write_text("no directory")
    assert "Not a directory" in host.numbers().traces({FIRST})[FIRST]
