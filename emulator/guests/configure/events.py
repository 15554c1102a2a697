"""Translates ansible-runner's events into ours. Pure; unexpected data is no event, and never a crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from emulator.guests.configure.model import TaskEvent, TaskFailure, TaskStatus

_STATUS_OF_EVENT: Mapping[str, TaskStatus] = {
    "runner_on_start": TaskStatus.STARTED,
    "runner_on_ok": TaskStatus.OK,
    "runner_on_skipped": TaskStatus.SKIPPED,
    "runner_on_failed": TaskStatus.FAILED,
    "runner_on_unreachable": TaskStatus.UNREACHABLE,
}
_BAD = (TaskStatus.FAILED, TaskStatus.UNREACHABLE)
# Tasks that only name other tasks. Each begins on every node, also where it is skipped, and would show work on nodes
# that have none.
_INCLUDES = ("include_role", "include_tasks", "import_role", "import_tasks")
MESSAGE_LIMIT = 2000
"""Characters of a failure's message that are kept; the log has the rest."""


def parse_event(raw: Mapping[str, object]) -> TaskEvent | None:
    """The task event in an event of ansible-runner; None for every other kind, and for an ignored failure."""
    status = _STATUS_OF_EVENT.get(str(raw.get("event")))
    data = raw.get("event_data")
    if status is None or not isinstance(data, Mapping):
        return None
    node, task = data.get("host"), data.get("task")
    if not isinstance(node, str) or not node:
        return None
    if status is TaskStatus.STARTED and str(data.get("task_action")).rpartition(".")[2] in _INCLUDES:
        return None
    result = data.get("res")
    result = result if isinstance(result, Mapping) else {}
    if status is TaskStatus.FAILED and data.get("ignore_errors") is True:
        return None
    if status is TaskStatus.OK and result.get("changed") is True:
        status = TaskStatus.CHANGED
    message = failure_message(result) if status in _BAD else ""
    return TaskEvent(node, task if isinstance(task, str) else "", status, message)


def failure_message(result: Mapping[str, object]) -> str:
    """Why a task failed: Ansible's message, then the command's output that the message lacks."""
    parts: list[str] = []
    for key in ("msg", "stderr", "module_stderr", "module_stdout", "censored"):
        text = result.get(key)
        if isinstance(text, str) and text.strip() and text.strip() not in "\n".join(parts):
            parts.append(text.strip())
    joined = "\n".join(parts) or "no reason given"
    return joined if len(joined) <= MESSAGE_LIMIT else joined[:MESSAGE_LIMIT] + " ..."


class RunRecord:
    """A running tally of events: what changed, what failed, and which tasks are under way."""

    def __init__(self) -> None:
        self._changed: Counter[str] = Counter()
        self._nodes: dict[str, None] = {}
        self._failures: list[TaskFailure] = []
        self._running: dict[str, str] = {}

    def add(self, event: TaskEvent) -> None:
        self._nodes.setdefault(event.node)
        if event.status is TaskStatus.STARTED:
            self._running[event.node] = event.task
            return
        self._running.pop(event.node, None)
        if event.status is TaskStatus.CHANGED:
            self._changed[event.node] += 1
        elif event.status in _BAD:
            self._failures.append(TaskFailure(event.node, event.task, event.message))

    @property
    def changed(self) -> dict[str, int]:
        return {node: self._changed[node] for node in self._nodes}

    @property
    def failures(self) -> tuple[TaskFailure, ...]:
        return tuple(self._failures)

    def under_way(self) -> str:
        """The tasks that have begun and not ended, for the message of a timeout."""
        return "; ".join(f"{node}: {task}" for node, task in self._running.items()) or "no task"
