"""Ctrl-C and SIGTERM: the first asks for a clean stop, the second ends the program at once."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from emulator.apply.handler import StopFlag


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    stop = StopFlag()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        name = signal.Signals(number).name
        sys.stderr.write(f"\n{name}: finishing what is under way, then stopping; once more to abort at once\n")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
