"""Progress events that long operations report to a terminal, a log or nowhere."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from emulator.core.units import printable


class Status(StrEnum):
    STARTED = "started"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Event:
    """One step forward. `phase`: plan, drain, apply, boot, configure, verify; `subject`: a node or resource id."""

    phase: str
    subject: str
    status: Status
    message: str = ""
    seconds: float = 0.0


def shown(event: Event) -> Event:
    """The event as it may be shown: its texts come from guests, drivers and programs too."""
    return replace(event, subject=printable(event.subject, line_limit=200), message=printable(event.message))


class Reporter(Protocol):
    """Takes events; called from several threads."""

    def event(self, event: Event) -> None: ...

    def note(self, message: str) -> None:
        """A line that is not a step: a warning, a summary."""
        ...

    def warn(self, message: str) -> None: ...


class SilentReporter:
    """For callers that want no progress."""

    def event(self, event: Event) -> None:
        del event

    def note(self, message: str) -> None:
        del message

    def warn(self, message: str) -> None:
        del message
