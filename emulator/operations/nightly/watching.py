"""How long the phases of a night took, and what was warned of, by its progress."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from emulator.core.progress import Event, Reporter
from emulator.core.units import printable

_MOST_WARNINGS = 100


class WatchingReporter:
    """Passes everything on, and remembers from when to when each phase of each cluster reported something."""

    def __init__(self, reporter: Reporter, now: Callable[[], float] = time.monotonic) -> None:
        self._reporter, self._now = reporter, now
        self._lock = threading.Lock()
        self._spans: dict[str, tuple[float, float]] = {}
        self._warnings: list[str] = []

    def event(self, event: Event) -> None:
        name, now = f"{event.cluster} {event.phase}".strip(), self._now()
        with self._lock:
            began, _ = self._spans.get(name, (now, now))
            self._spans[name] = (began, now)
        self._reporter.event(event)

    def note(self, message: str) -> None:
        self._reporter.note(message)

    def warn(self, message: str) -> None:
        with self._lock:
            if len(self._warnings) < _MOST_WARNINGS:
                self._warnings.append(printable(message))
        self._reporter.warn(message)

    @property
    def phases(self) -> Mapping[str, float]:
        """Seconds by phase, in the order in which they began."""
        with self._lock:
            return {name: round(ended - began, 1) for name, (began, ended) in self._spans.items()}

    @property
    def warnings(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(self._warnings)
