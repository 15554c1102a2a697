"""Everything that runs as a user is stopped at once, and goes on at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.core.trust.processes import process_ids
from emulator.core.trust.users import end_user, let_users_go_on, stop_users, stopped_users, users_of
from tests.support.waiting import until

GUEST, OTHER = 60700, 60701
"""Users of guests: numbers that nobody else has."""

COUNTS = """
import os, sys, threading, time
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
os.fork()

def count():
    while True:
        os.write(1, b"x")
        time.sleep(0.01)

threading.Thread(target=count).start()
count()
"""


class Program:
    """Two processes of two threads that write into a file."""

    def __init__(self, uid: int, file: Path) -> None:
        with file.open("wb") as out:
            self._file = file
            self.process = subprocess.Popen([sys.executable, "-I", "-c", COUNTS, str(uid)], stdout=out, process_group=0)
        until(lambda: self.grows(), "its first words")

    def grows(self) -> bool:
        before = self._file.stat().st_size
        time.sleep(0.1)
        return self._file.stat().st_size > before


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[dict[int, Program]]:
    if os.geteuid() != 0:
        pytest.skip("only root takes other accounts")
    made = {uid: Program(uid, tmp_path / str(uid)) for uid in (GUEST, OTHER)}
    yield made
    for program in made.values():
        os.killpg(program.process.pid, 9)
        program.process.wait()


def test_all_of_one_user_stand_still_and_others_go_on(programs: dict[int, Program]) -> None:
    assert users_of(programs[GUEST].process.pid) == {GUEST}
    assert stopped_users([GUEST, OTHER]) == frozenset()
    assert stop_users([GUEST]) == {GUEST}
    assert stopped_users([GUEST, OTHER]) == {GUEST}
    assert not programs[GUEST].grows() and programs[OTHER].grows()
    let_users_go_on([GUEST, OTHER])
    assert stopped_users([GUEST, OTHER]) == frozenset()
    assert programs[GUEST].grows()


def test_a_user_of_whom_nothing_runs_is_not_called_stopped() -> None:
    assert stop_users([60702]) == frozenset() == stopped_users([60702])
    assert stop_users([]) == frozenset()


WAITS = """
import ctypes, os, sys, time
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
print("there", flush=True)
if ctypes.PyDLL(None).vfork() == 0:
    while True:
        time.sleep(0.01)
"""


def test_one_that_waits_in_the_kernel_is_stopped_and_goes_on() -> None:
    """Its state never says so; a guest's QEMU may wait there for a slow disk, or on purpose for a child."""
    if os.geteuid() != 0:
        pytest.skip("only root takes other accounts")
    argv = [sys.executable, "-I", "-c", WAITS, str(GUEST)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, process_group=0) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"there\n"
            status = Path(f"/proc/{process.pid}/status")
            until(lambda: "State:\tD" in status.read_text(), "the wait for a child")
            assert stopped_users([GUEST]) == frozenset()
            assert stop_users([GUEST]) == {GUEST} == stopped_users([GUEST])
            let_users_go_on([GUEST])
            until(lambda: not stopped_users([GUEST]), "the child to go on")
        finally:
            os.killpg(process.pid, 9)


MANY = """
import os, sys, time
os.setgroups([])
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
for _ in range(300):
    if os.fork() == 0:
        break
else:
    print("there", flush=True)
time.sleep(600)
"""
SERVICE = """
import resource, sys
sys.path.insert(0, sys.argv[2])
from emulator.core.trust.users import let_users_go_on, stop_users, stopped_users
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
guest = {int(sys.argv[1])}
print(stop_users(guest) == stopped_users(guest) == guest, let_users_go_on(guest), stopped_users(guest) == set())
"""


def test_more_processes_than_a_service_may_have_files_shield_nobody() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root takes other accounts")
    words = [sys.executable, "-I", "-c"]
    with subprocess.Popen([*words, MANY, str(GUEST)], stdout=subprocess.PIPE, process_group=0) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"there\n"
            argv = [*words, SERVICE, str(GUEST), str(Path(__file__).parents[4])]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert done.stdout == "True None True\n", done.stderr
        finally:
            os.killpg(process.pid, 9)


def test_all_of_one_user_end_and_others_go_on(programs: dict[int, Program]) -> None:
    assert end_user(GUEST)
    assert not [pid for pid in process_ids() if GUEST in users_of(pid)]
    assert [pid for pid in process_ids() if OTHER in users_of(pid)]
    assert end_user(GUEST)
    del programs
