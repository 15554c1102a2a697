"""Processor time of a session, read of a recorded /proc."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.adapters.system.session_time import session_seconds

TICKS = os.sysconf("SC_CLK_TCK")


def process(proc: Path, pid: int, *, session: int, ticks: tuple[int, int, int, int], name: str = "sh") -> None:
    (proc / str(pid)).mkdir()
    rest = f"S 1 {session} {session} 0 -1 0 0 0 0 0 {' '.join(map(str, ticks))} 20 0 1 0 100"
    (proc / str(pid) / "stat").write_text(f"{pid} ({name}) {rest}\n")


def test_all_processes_of_the_session_count_with_their_children(tmp_path: Path) -> None:
    process(tmp_path, 10, session=10, ticks=(TICKS, TICKS, 2 * TICKS, 0))
    process(tmp_path, 11, session=10, ticks=(TICKS, 0, 0, 0), name="a) S 1 99 99")
    process(tmp_path, 12, session=12, ticks=(1000 * TICKS, 0, 0, 0))
    (tmp_path / "self").mkdir()
    assert session_seconds(10, proc=tmp_path) == pytest.approx(5.0)


def test_processes_that_ended_meanwhile_and_broken_lines_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "10").mkdir()
    (tmp_path / "11").mkdir()
    (tmp_path / "11" / "stat").write_text("11 (sh")
    assert session_seconds(10, proc=tmp_path) == 0.0
