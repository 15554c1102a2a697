"""What this process started is ended, and nothing that only looks like it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.guests import descendants as module
from emulator.guests.descendants import descendants, end_descendants

WAIT = "import sys; print('there', flush=True); sys.stdin.read()"


def entry(proc: Path, pid: int, parent: int) -> None:
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "stat").write_text(f"{pid} (a (name) ) S {parent} {' '.join('0' for _ in range(18))}\n")


def test_children_and_their_children_parents_first(tmp_path: Path) -> None:
    for pid, parent in ((10, 1), (11, 10), (12, 11), (13, 1), (14, 99)):
        entry(tmp_path, pid, parent)
    assert descendants(10, proc=tmp_path) == (11, 12)
    assert descendants(98, proc=tmp_path) == ()


def test_who_got_the_id_of_a_descendant_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table names the id of an unrelated process, which a child that ended meanwhile had."""
    child = subprocess.Popen([sys.executable, "-I", "-c", WAIT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"there\n"
    stranger = os.getppid()
    signalled: list[int] = []
    monkeypatch.setattr(module, "descendants", lambda _pid: (stranger, child.pid))
    monkeypatch.setattr(module, "send", lambda held, number: signalled.extend(held.values()))
    try:
        end_descendants()
        assert signalled == [child.pid]
    finally:
        child.kill()
        child.communicate()


START_AND_END = f"""
import subprocess, sys
from emulator.guests.descendants import end_descendants
child = subprocess.Popen([sys.executable, "-I", "-c", {WAIT!r}], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
end_descendants()
print(child.wait())
"""


def test_a_child_is_ended() -> None:
    """In a process of its own, since other tests may have children."""
    done = subprocess.run([sys.executable, "-c", START_AND_END], capture_output=True, text=True, check=True)
    assert int(done.stdout) == -signal.SIGTERM
