"""When a service starts, starts again and ends: a pure function of what is wanted, what happened and the time."""

from __future__ import annotations

import dataclasses
import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from emulator.core.ports.services import ServiceRequest, ServiceState

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds before a service that ended is started again: doubled at each failure."""
STEADY = 60.0
"""Seconds after which a service counts as steady: its failures until then are forgotten."""
PATIENCE = 10.0
"""Seconds between the request to end and SIGKILL."""


class Action(StrEnum):
    """What the supervisor is to do now."""

    NOTHING = "nothing"
    START = "start"
    ASK = "ask to end"
    KILL = "kill"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Service:
    """A service as the supervisor sees it. Times are of one monotonic clock, in seconds.

    Attributes:
        request: what it runs, or is to run next.
        state: RUNNING, STARTING, BACKOFF or ENDING.
        pid: of its process, 0 without one.
        since: when it came into this state.
        failures: how often in a row it ended without being asked to.
        due: BACKOFF: when it is started again. ENDING: when it is killed.
        reason: why it does not run.
        start: identifies its last start, for its note.
    """

    request: ServiceRequest
    state: ServiceState
    pid: int = 0
    since: float = 0.0
    failures: int = 0
    due: float = 0.0
    reason: str = ""
    start: str = ""

    def to_json(self) -> dict[str, Any]:
        """What the status file has of it."""
        return {
            "digest": self.request.digest,
            "state": self.state.value,
            "pid": self.pid,
            "reason": self.reason,
            "failures": self.failures,
        }


def new(request: ServiceRequest, now: float) -> Service:
    """A service that was never started, and is due."""
    return Service(request, ServiceState.BACKOFF, since=now, due=now)


def step(service: Service, wanted: ServiceRequest | None, now: float) -> tuple[Service, Action]:
    """What is to be done with a service now, and how it is then.

    Args:
        service: as it was.
        wanted: its record; None when it is no longer wanted.
        now: the time.
    """
    if service.pid:
        return _step_with_process(service, wanted, now)
    if wanted is None:
        return service, Action.DROP
    if not _runs_alike(wanted, service.request):  # made anew: earlier failures prove nothing
        service = new(wanted, now)
    return (service, Action.START) if now >= service.due else (service, Action.NOTHING)


def _step_with_process(service: Service, wanted: ServiceRequest | None, now: float) -> tuple[Service, Action]:
    if service.state is ServiceState.ENDING:
        # Asked again each time: what a process does before it can handle a signal, it does not remember.
        return service, Action.KILL if now >= service.due else Action.ASK
    if wanted is None or not _runs_alike(wanted, service.request):
        reason = "it is no longer wanted" if wanted is None else "its program, arguments or limits have changed"
        ending = dataclasses.replace(service, state=ServiceState.ENDING, since=now, due=now + PATIENCE, reason=reason)
        return ending, Action.ASK
    return service, Action.NOTHING


def hurried(service: Service, now: float) -> Service:
    """After a command has asked for it: it is started now, whatever pause its failures would cost."""
    return service if service.pid else dataclasses.replace(service, due=now)


def _runs_alike(one: ServiceRequest, other: ServiceRequest) -> bool:
    """Whether two requests make the same process."""
    return dataclasses.replace(one, definition={}) == dataclasses.replace(other, definition={})


def started(service: Service, pid: int, now: float, start: str = "") -> Service:
    """After a start; its note is to name `start` once it is ready."""
    state = ServiceState.STARTING if service.request.notifies else ServiceState.RUNNING
    return dataclasses.replace(service, state=state, pid=pid, since=now, due=0.0, reason="", start=start)


def ready(service: Service) -> Service:
    """After it has said that it is ready."""
    return dataclasses.replace(service, state=ServiceState.RUNNING)


def not_started(service: Service, why: str, now: float) -> Service:
    """After a start that failed."""
    return _failed(service, why, service.failures + 1, now)


def ended(service: Service, status: int, now: float) -> Service:
    """After its process's end.

    Args:
        service: as it was.
        status: its exit code, or the negative number of the signal that ended it.
        now: the time.
    """
    if service.state is ServiceState.ENDING:
        return dataclasses.replace(service, state=ServiceState.BACKOFF, pid=0, since=now, failures=0, due=now)
    steady = now - service.since >= STEADY
    return _failed(service, _how(status), 1 if steady else service.failures + 1, now)


def _failed(service: Service, why: str, failures: int, now: float) -> Service:
    pause = min(FIRST_PAUSE * 2 ** min(failures - 1, 16), LONGEST_PAUSE)
    times = f", {failures} times in a row" if failures > 1 else ""
    return dataclasses.replace(
        service,
        state=ServiceState.BACKOFF,
        pid=0,
        since=now,
        failures=failures,
        due=now + pause,
        reason=f"{why}{times}; it is started again after {pause:g} s",
    )


def _how(status: int) -> str:
    if status >= 0:
        return f"it ended with exit code {status}"
    try:
        return f"it was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"it was ended by signal {-status}"
