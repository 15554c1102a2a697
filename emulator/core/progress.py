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
    """One step forward.

    Attributes:
        phase: plan, drain, apply, boot, configure, verify, ...
        subject: a node, a resource id or the name of a check.
        message: the step, and after a colon its details.
        seconds: how long the subject took, where it has ended.
        cluster: the cluster whose phase it is (`Slurm`, `Kubernetes`), empty for the lab as a whole.
    """

    phase: str
    subject: str
    status: Status
    message: str = ""
    seconds: float = 0.0
    cluster: str = ""

    @property
    def step(self) -> str:
        """The message without its details; empty for an end, which has no step."""
        return self.message.partition(": ")[0] if self.status in (Status.STARTED, Status.RUNNING) else ""


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


class ClusterReporter:
    """Passes everything on, and says of each event which cluster it belongs to."""

    def __init__(self, reporter: Reporter, cluster: str) -> None:
        self._reporter = reporter
        self._cluster = cluster

    def event(self, event: Event) -> None:
        self._reporter.event(replace(event, cluster=self._cluster))

    def note(self, message: str) -> None:
        self._reporter.note(message)

    def warn(self, message: str) -> None:
        self._reporter.warn(message)


class SilentReporter:
    """For callers that want no progress."""

    def event(self, event: Event) -> None:
        del event

    def note(self, message: str) -> None:
        del message

    def warn(self, message: str) -> None:
        del message
