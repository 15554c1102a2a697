"""Progress events: what the long-running use cases tell whoever watches (a terminal, a log, nobody)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


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


class Reporter(Protocol):
    """Takes events; called from several threads."""

    def event(self, event: Event) -> None: ...

    def note(self, message: str) -> None:
        """A line that is no step: a warning, a summary."""
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
