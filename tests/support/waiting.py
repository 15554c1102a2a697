"""Waiting in tests: for what comes in the end on any host, however slow, and for time that a test makes pass itself.

No test is decided by the clock on the wall. What has to happen is waited for with `until` or with the limit `PATIENCE`,
which a host reaches only if the product hangs. Where a deadline is what is tested, the module gets a `Clock`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emulator.core.waiting import watch

PATIENCE = 600.0
"""Seconds after which a test takes it that something hangs: far beyond what the slowest host needs."""


def until(
    condition: Callable[[], object],
    what: str = "what the test waits for",
    *,
    pause: float = 0.01,
    patience: float = PATIENCE,
) -> None:
    """Look again and again until `condition` holds, for `patience` seconds at most and with pauses of `pause`."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"{what} has not come for {patience:g} s"
        time.sleep(pause)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and was not asked for its status does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def number_in(note: Path) -> int:
    """The number that another process writes to a file, once it is there with its newline."""
    until(lambda: note.is_file() and note.read_text().endswith("\n"), f"a number in {note}")
    return int(note.read_text())


def end(pid: int, signal_number: int = 9) -> None:
    """End a process that may have ended already."""
    try:
        os.kill(pid, signal_number)
    except ProcessLookupError:
        return


class Clock:
    """In the place of the module `time` in a module under test: who sleeps is awake at once, and it is later."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Ticking:
    """Time of a wait of `emulator.core.waiting`, in seconds: it passes only while the wait sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def clock(self) -> watch.Clock:
        return watch.Clock(now=self.monotonic, sleep=self.sleep)
