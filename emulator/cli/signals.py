"""Ctrl-C and SIGTERM: the first asks for a clean stop, the second ends the program at once. The loss of the terminal
asks, too, and never ends at once: kernel and shell both report it."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from emulator.cli.output import say
from emulator.core.errors import InterruptedRunError
from emulator.core.stop import StopFlag

ABORTED = 130
"""Exit code after the second signal, as of a shell command that Ctrl-C ended."""

_SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    stop = StopFlag()

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        elif stop.is_set():
            _abort()
        stop.set()
        name = signal.Signals(number).name
        with suppress(RuntimeError):  # the signal came amid another write to stderr
            say(f"\n{name}: finishing what is under way, then stopping; once more to abort at once", err=True)

    with _handled_by(handle):
        yield stop


@contextmanager
def ended_by_signals(kept: Callable[[], str]) -> Iterator[None]:
    """Work that may end anywhere, such as a build in the cache: the first signal ends it with everything that it has
    started, in order; the second does at once.

    Args:
        kept: what is left of the work for the next run, in words. Called when a signal has ended it.

    Raises:
        InterruptedRunError: a signal has ended it.
    """
    seen: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            _leave_terminal()
        elif seen:
            _abort()
        if not seen:
            seen.append(number)
            raise _EndedError

    with _handled_by(handle):
        try:
            yield
        except _EndedError:
            raise InterruptedRunError(
                f"ended by {signal.Signals(seen[0]).name}; {kept()}", fix="run the same command again"
            ) from None


class _EndedError(KeyboardInterrupt):
    """A signal asked for the end. Cleaned up after as Ctrl-C is, and caught by nothing that catches errors."""


@contextmanager
def _handled_by(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """What ends a program goes to `handle`; the loss of the terminal does not where nohup says so."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _leave_terminal() -> None:
    """Write to nowhere from now on: a write to a terminal that is gone would fail, and the step under way with it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        with suppress(OSError):  # closed
            if os.isatty(descriptor) or not _writable(descriptor):
                os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _writable(descriptor: int) -> bool:
    try:
        os.write(descriptor, b"")
    except OSError:
        return False
    return True


def _abort() -> None:
    """End now, as a kill would, without waiting for the threads at work: the journal is made for that."""
    from emulator.guests.descendants import end_descendants

    end_descendants()
    shown = _SHOW_CURSOR if sys.stderr.isatty() else ""
    os.write(2, f"{shown}\naborted at once, as asked; run the same command again to go on\n".encode())
    os._exit(ABORTED)
