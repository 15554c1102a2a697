"""A signal in the middle of a start leaves no process that nobody knows."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Iterator

import pytest

from emulator.core.waiting.starting import Starting

SLEEP = ["sleep", "900"]


class SignalError(KeyboardInterrupt):
    """What the handler raises."""


@pytest.fixture
def raising() -> Iterator[None]:
    def handle(_number: int, _frame: object) -> None:
        raise SignalError

    before = signal.signal(signal.SIGUSR1, handle)
    yield
    signal.signal(signal.SIGUSR1, before)


def popen() -> subprocess.Popen[bytes]:
    return subprocess.Popen(SLEEP, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def ended(process: subprocess.Popen[bytes] | None) -> subprocess.Popen[bytes]:
    assert process is not None
    process.kill()
    process.wait()
    return process


def test_a_process_that_starts_while_a_signal_comes_is_known(raising: None) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(popen())
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        return started[0]

    starting = Starting(start)
    with pytest.raises(SignalError):
        starting.process()
        signal.sigtimedwait([signal.SIGUSR2], 30.0)  # the handler runs at the latest here
    assert ended(starting.found()) is started[0]


def test_another_thread_starts_it_by_itself() -> None:
    threads: list[str] = []

    def start() -> subprocess.Popen[bytes]:
        threads.append(threading.current_thread().name)
        return popen()

    starting = Starting(start)
    other = threading.Thread(target=starting.process, name="other")
    other.start()
    other.join()
    ended(starting.found())
    assert threads == ["other"]


def test_what_the_start_raises_is_raised_and_nothing_is_found() -> None:
    def start() -> subprocess.Popen[bytes]:
        raise FileNotFoundError("no such program")

    starting = Starting(start)
    assert starting.found() is None
    with pytest.raises(FileNotFoundError, match="no such program"):
        starting.process()
    assert starting.found() is None
