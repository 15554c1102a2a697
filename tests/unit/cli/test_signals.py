"""Ctrl-C: once asks, twice ends, with threads and children at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE, alive, number_in, until

PROGRAM = """
import sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from emulator.adapters.system.process import HostProcess
from emulator.cli.signals import stop_on_signals

def work(stop):
    HostProcess().run(["sh", "-c", "echo $$ > {pid}; sleep 900"], timeout=1000, check=False)

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
        child = number_in(note)
        program.send_signal(signal.SIGTERM)
        assert program.stdout.readline() == "asked\n"
        assert program.poll() is None, "the first waits for what is under way"
        program.send_signal(signal.SIGINT)
        assert program.wait(timeout=PATIENCE) == 130
        said = program.stderr.read()
    assert "SIGTERM: finishing what is under way" in said
    assert "aborted at once" in said
    until(lambda: not alive(child), "the end of its child")


def test_outside_of_the_block_signals_are_as_before() -> None:
    from emulator.cli.signals import stop_on_signals

    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        until(stop.is_set, "the handler of the signal")
    assert signal.getsignal(signal.SIGTERM) is before


BUILD = """
import sys, time
from pathlib import Path
from emulator.adapters.system.process import HostProcess
from emulator.cli.signals import ended_by_signals
from emulator.core.errors import InterruptedRunError

try:
    with ended_by_signals(lambda: "half of it is kept"):
        try:
            HostProcess().run(["sh", "-c", "echo $$ > {pid}; sleep 900"], timeout=1000, check=False)
        finally:
            Path("{pid}.cleaned").touch()
except InterruptedRunError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_build_ends_with_what_it_started_and_says_what_is_kept(number: signal.Signals, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with subprocess.Popen(
        [sys.executable, "-c", BUILD.replace("{pid}", str(note))],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # these tests may run under nohup
    ) as program:
        child = number_in(note)
        program.send_signal(number)
        assert program.wait(timeout=PATIENCE) == 1
        assert program.stdout is not None
        said = program.stdout.read()
    assert said == f"ended by {number.name}; half of it is kept\n  fix: run the same command again\n"
    assert (tmp_path / "pid.cleaned").exists()
    until(lambda: not alive(child), "the end of its child")


TERMINAL = """
import signal, sys, time
from pathlib import Path
from emulator.cli.signals import stop_on_signals

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup
with stop_on_signals() as stop:
    print("ready", flush=True)
    while not stop.is_set():
        time.sleep(0.02)
    note, told_again = map(Path, sys.argv[1:])
    note.write_text("asked")
    while not told_again.exists():  # the shell tells of it, too
        time.sleep(0.02)
    print("written to a terminal that is gone", flush=True)
    note.write_text("stopped cleanly")
"""


def test_the_loss_of_the_terminal_asks_and_no_more(tmp_path: Path) -> None:
    note, told_again = tmp_path / "note", tmp_path / "told again"
    keeper, terminal = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", TERMINAL, note, told_again],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    ) as program:
        try:
            os.close(terminal)
            assert os.read(keeper, 100).startswith(b"ready")
            os.close(keeper)
            program.send_signal(signal.SIGHUP)
            until(note.exists, "the handler of the first signal")
            program.send_signal(signal.SIGHUP)
            told_again.touch()
            assert program.wait(timeout=PATIENCE) == 0
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
