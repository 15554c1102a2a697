"""Ctrl-C: once asks, twice ends, with threads and children at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from emulator.adapters.system.process import HostProcess
from emulator.cli.signals import stop_on_signals

def work(stop):
    HostProcess().run(["sh", "-c", "echo $$ > {pid}; sleep 300"], timeout=400, check=False)

with stop_on_signals() as stop, ThreadPoolExecutor() as pool:
    done = pool.submit(work, stop)
    print("ready", flush=True)
    while not stop.is_set():
        time.sleep(0.02)
    print("asked", flush=True)
    done.result()
"""


def test_the_second_ends_threads_and_children_at_once(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("{pid}", str(note))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline() == "ready\n"
        child = _number(note)
        program.send_signal(signal.SIGTERM)
        assert program.stdout.readline() == "asked\n"
        assert program.poll() is None, "the first waits for what is under way"
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=30) == 130
        said = program.stderr.read()
    assert "SIGTERM: finishing what is under way" in said
    assert "aborted at once" in said
    deadline = time.monotonic() + 30
    while _runs(child):
        assert time.monotonic() < deadline, "its child outlives it"
        time.sleep(0.02)


def _number(note: Path) -> int:
    deadline = time.monotonic() + 30
    while not (note.is_file() and note.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(note.read_text())


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_outside_of_the_block_signals_are_as_before() -> None:
    from emulator.cli.signals import stop_on_signals

    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 30
        while not stop.is_set():
            assert time.monotonic() < deadline
    assert signal.getsignal(signal.SIGTERM) is before


TERMINAL = """
import signal, sys, time
from emulator.cli.signals import stop_on_signals

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
with stop_on_signals() as stop:
    print("ready", flush=True)
    while not stop.is_set():
        time.sleep(0.02)
    time.sleep(0.5)  # the shell tells of it, too
    print("written to a terminal that is gone", flush=True)
    open(sys.argv[1], "w").write("stopped cleanly")
"""


def test_the_loss_of_the_terminal_asks_and_no_more(tmp_path: Path) -> None:
    note = tmp_path / "note"
    keeper, terminal = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", TERMINAL, note], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    ) as program:
        try:
            os.close(terminal)
            assert os.read(keeper, 100).startswith(b"ready")
            os.close(keeper)
            program.send_signal(signal.SIGHUP)
            time.sleep(0.2)
            program.send_signal(signal.SIGHUP)
            assert program.wait(timeout=30) == 0
        finally:
            program.kill()
    assert note.read_text() == "stopped cleanly"


def test_with_nohup_it_goes_on() -> None:
    from emulator.cli.signals import stop_on_signals

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.05)
            assert not stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)
