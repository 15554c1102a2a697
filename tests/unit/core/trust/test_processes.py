"""A signal reaches the process that was looked at, or nobody; never one that got its id."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.core.trust.processes import await_end, end, holding, process_ids, send, start_time

WAIT = [sys.executable, "-I", "-c", "import sys; print('there', flush=True); sys.stdin.read()"]
DEAF = [
    sys.executable,
    "-I",
    "-c",
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('there', flush=True); sys.stdin.read()",
]


def started(argv: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        yield process
        process.kill()


@pytest.fixture
def innocent() -> Iterator[subprocess.Popen[str]]:
    yield from started(WAIT)


@pytest.fixture
def deaf() -> Iterator[subprocess.Popen[str]]:
    """It ignores SIGTERM."""
    yield from started(DEAF)


def stat_of(started_at: int) -> str:
    fields = ["S", *("0" for _ in range(18)), str(started_at), "0"]
    return f"7 (a name) with) brackets) {' '.join(fields)}\n"


def test_the_start_time_tells_processes_with_one_id_apart(tmp_path: Path) -> None:
    entry = tmp_path / "7"
    entry.mkdir()
    (entry / "stat").write_text(stat_of(100))
    assert start_time(7, proc=tmp_path) == "100"
    (entry / "stat").write_text(stat_of(200))
    assert start_time(7, proc=tmp_path) == "200"
    assert start_time(8, proc=tmp_path) == ""
    assert list(process_ids(proc=tmp_path)) == [7]


def test_a_process_that_got_the_id_meanwhile_is_not_signalled(innocent: subprocess.Popen[str]) -> None:
    """The table said that this id is ours; when it is held, another process has it, which started at another time."""
    ours = "12"  # the start time of the process that was seen under this id
    with holding([innocent.pid], lambda pid: start_time(pid) == ours) as held:
        assert held == {}
        end(held, ((signal.SIGKILL, 1.0),))
    assert innocent.poll() is None


def test_an_id_that_is_given_out_again_after_the_look_leads_nowhere(
    innocent: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handle is of the process that ended; what has its id now is not reached through it."""
    with subprocess.Popen([sys.executable, "-I", "-c", ""]) as gone:
        handle = os.pidfd_open(gone.pid)
        gone.wait()
    monkeypatch.setattr(os, "pidfd_open", lambda _pid: handle)
    with holding([innocent.pid], lambda _pid: True) as held:
        send(held, signal.SIGKILL)
    assert innocent.poll() is None


def test_who_is_gone_is_left_out() -> None:
    with subprocess.Popen([sys.executable, "-I", "-c", ""]) as gone:
        gone.wait()
    with holding([gone.pid, 2**31 - 1], lambda _pid: True) as held:
        assert held == {}


def test_who_does_not_hear_is_killed(deaf: subprocess.Popen[str], innocent: subprocess.Popen[str]) -> None:
    with holding([deaf.pid], lambda _pid: True) as held:
        end(held, ((signal.SIGTERM, 0.1),))
        assert list(held.values()) == [deaf.pid]
        end(held, ((signal.SIGTERM, 0.1), (signal.SIGKILL, 60.0)))
        assert held == {}
    assert deaf.wait() == -signal.SIGKILL
    assert innocent.poll() is None


def test_many_are_awaited_at_once() -> None:
    """More descriptors than select(2) takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2000:
        pytest.skip("so many files may not be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    with subprocess.Popen([sys.executable, "-I", "-c", ""]) as gone:
        handles = {os.pidfd_open(gone.pid): number for number in range(1100)}
        gone.wait()
    try:
        left = dict(handles)
        await_end(left, 10.0)
        assert left == {}
    finally:
        for handle in handles:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_processes_than_files_are_usually_allowed_are_held(innocent: subprocess.Popen[str]) -> None:
    """Otherwise a user with many processes could not be ended."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        with holding([innocent.pid] * 150, lambda _pid: True) as held:
            assert len(held) == 150
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (100, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
