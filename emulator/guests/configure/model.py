"""Events of a running playbook, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias


class TaskStatus(StrEnum):
    """The state of one task on one node."""

    STARTED = "started"
    OK = "ok"
    CHANGED = "changed"
    SKIPPED = "skipped"
    FAILED = "failed"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class TaskEvent:
    """One task on one node; `message` says why when it failed."""

    node: str
    task: str
    status: TaskStatus
    message: str = ""


EventSink: TypeAlias = Callable[[str, str, TaskStatus], None]
"""Called with node, task and status, from the thread that runs the playbook."""


@dataclass(frozen=True, slots=True)
class TaskFailure:
    node: str
    task: str
    message: str


@dataclass(frozen=True, slots=True)
class ConfigureResult:
    """A playbook's end. `changed` counts the changed tasks of every node that took part; `log` is Ansible's output."""

    ok: bool
    changed: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[TaskFailure, ...] = ()
    seconds: float = 0.0
    log: Path | None = None
