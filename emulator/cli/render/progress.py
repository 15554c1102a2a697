"""Progress for people: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from emulator.cli.output import is_terminal, say
from emulator.cli.render.timings import Timings
from emulator.core.paths import Home
from emulator.core.ports import log
from emulator.core.progress import Event, Reporter, Status, shown
from emulator.core.units import human_duration, printable

log.addHandler(logging.NullHandler())  # without a run log, records go nowhere instead of to Python's last resort

INDENT = "\n    "
_DETAIL_SECONDS = 15.0


class PlainReporter:
    """One line per step: start and end, with the time since the run began. For logs and unattended runs.

    Of a step that reports its details line by line ("install packages: Get:1 ..."), one in `_DETAIL_SECONDS` is shown.
    """

    def __init__(self, timings: Timings | None = None) -> None:
        self._timings = timings or Timings(None)
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._last: dict[tuple[str, str], tuple[str, float]] = {}

    def event(self, event: Event) -> None:
        event = shown(event)
        log.info("%s %s %s: %s", event.phase, event.subject, event.status.value, event.message)
        key, (step, _, detail) = (event.phase, event.subject), event.message.partition(": ")
        now = time.monotonic()
        with self._lock:
            self._timings.take(event, now)
        if event.status is Status.RUNNING:
            last_step, last_shown = self._last.get(key, ("", 0.0))
            if last_step == step and (not detail or now - last_shown < _DETAIL_SECONDS):
                return
        self._last[key] = (step, now)
        spent = f" ({human_duration(event.seconds)})" if event.status is Status.DONE and event.seconds else ""
        mark = {Status.DONE: "ok ", Status.FAILED: "FAILED "}.get(event.status, "")
        cluster = f"{event.cluster} " if event.cluster else ""
        self._line(f"{event.phase:<9} {cluster}{event.subject}: {mark}{event.message}{spent}")

    def note(self, message: str) -> None:
        message = printable(message)
        log.info("%s", message)
        self._line(message)

    def warn(self, message: str) -> None:
        message = printable(message)
        log.warning("%s", message)
        self._line(f"warning: {message}")

    def _line(self, text: str) -> None:
        with self._lock:
            clock = time.monotonic() - self._started
            # Further lines are set in, so that none of them passes for a line of ours.
            say(f"[{clock:7.1f}s] {text.replace(chr(10), INDENT)}", err=True)


class QuietReporter:
    """Warnings only, without a clock: for commands that are over at once."""

    def event(self, event: Event) -> None:
        event = shown(event)
        log.info("%s %s %s: %s", event.phase, event.subject, event.status.value, event.message)

    def note(self, message: str) -> None:
        message = printable(message)
        log.info("%s", message)

    def warn(self, message: str) -> None:
        message = printable(message)
        log.warning("%s", message)
        say(f"warning: {message}", err=True)


@contextmanager
def reporting(*, live: bool) -> Iterator[Reporter]:
    """A reporter that suits where stderr goes; the live one is taken off the screen at the end."""
    timings = Timings(Home.default().timings)
    timings.load()
    try:
        if not (live and is_terminal(sys.stderr)):
            yield PlainReporter(timings)
            return
        from emulator.cli.render.live import LiveReporter

        reporter = LiveReporter(timings)
        reporter.start()
        try:
            yield reporter
        finally:
            reporter.stop()
    finally:
        timings.save()


def paused(reporter: Reporter) -> AbstractContextManager[None]:
    """While this is open nothing is drawn, so that a question can be asked."""
    pause: AbstractContextManager[None] | None = getattr(reporter, "paused", nullcontext)()
    return pause or nullcontext()
