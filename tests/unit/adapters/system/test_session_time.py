"""Processor time of a session, read of a recorded /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.adapters.system.session_time import SessionWork, work_of_session

TICKS = os.sysconf("SC_CLK_TCK")


def process(
    proc: Path, pid: int, *, session: int, ticks: tuple[int, int, int, int], name: str = "sh", state: str = "S"
) -> None:
    (proc / str(pid)).mkdir()
    rest = f"{state} 1 {session} {session} 0 -1 0 0 0 0 0 {' '.join(map(str, ticks))} 20 0 1 0 100"
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {rest}\n")


def test_all_processes_of_the_session_count_with_their_children(tmp_path: Path) -> None:
    process(tmp_path, 10, session=10, ticks=(TICKS, TICKS, 2 * TICKS, 0))
    process(tmp_path, 11, session=10, ticks=(TICKS, 0, 0, 0), name="a) S 1 99 99")
    process(tmp_path, 12, session=12, ticks=(1000 * TICKS, 0, 0, 0))
    (tmp_path / "self").mkdir()
    assert work_of_session(10, proc=tmp_path) == SessionWork(5.0, wants=False)


def test_processes_that_ended_meanwhile_and_broken_lines_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "10").mkdir()
    (tmp_path / "11").mkdir()
    (tmp_path / "11" / "stat").write_text("11 (sh")
    assert work_of_session(10, proc=tmp_path) == SessionWork(0.0, wants=False)


@pytest.mark.parametrize(("state", "wants"), [("R", True), ("D", True), ("S", False), ("Z", False), ("T", False)])
def test_one_that_waits_for_a_processor_or_a_disk_has_something_to_do(tmp_path: Path, state: str, wants: bool) -> None:
    process(tmp_path, 10, session=10, ticks=(0, 0, 0, 0))
    process(tmp_path, 11, session=10, ticks=(0, 0, 0, 0), state=state)
    assert work_of_session(10, proc=tmp_path).wants is wants
