"""The supervisor of one lab: does what `machine` says with real or simulated processes, and writes down how things are.

It ends when no service is left to run, when it is asked to, or when its directory is no longer there: a lab that was
removed by hand leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from emulator.core.errors import HyperscalerError, StateError
from emulator.core.ports.services import ServiceRequest, ServiceState
from emulator.core.trust.identity import ProcessIdentity
from emulator.supervisor import machine
from emulator.supervisor.in_place import read_in_place
from emulator.supervisor.machine import Action, Service
from emulator.supervisor.records import SupervisorFiles

TICK = 1.0
"""Seconds between two looks, when nothing happens in between."""


class Children(Protocol):
    """The processes of services. Each dies with the supervisor."""

    def start(self, request: ServiceRequest, *, log: Path, note: Path, start: str) -> int:
        """Start the service and return its process id; in its note it names `start`.

        Raises:
            HyperscalerError: it cannot be started.
        """
        ...

    def ask(self, pid: int) -> None:
        """Ask the service to end."""
        ...

    def kill(self, pid: int) -> None:
        """End the service with everything that it started."""
        ...

    def ended(self) -> Mapping[int, int]:
        """Services that have ended since the last call: process id -> exit code, or minus the signal."""
        ...

    def wait(self, seconds: float) -> None:
        """Keep logs, until a service ends, a command says that something has changed, or the time is over."""
        ...

    def hurried(self) -> bool:
        """Whether since the last call a command has asked to start at once what waits for its next try."""
        ...

    @property
    def asked_to_end(self) -> bool:
        """Whether the supervisor itself was asked to end."""
        ...


class Supervisor:
    """The supervisor of one lab.

    Args:
        files: of the lab's supervisor.
        children: its processes.
        clock: a monotonic one, in seconds.
        me: this process.
    """

    def __init__(
        self, files: SupervisorFiles, children: Children, clock: Callable[[], float], me: ProcessIdentity
    ) -> None:
        self._files, self._children, self._clock, self._me = files, children, clock, me
        self._services: dict[str, Service] = {}
        self._home = files.place()
        self._written: dict[str, dict[str, object]] | None = None
        self._starts = 0

    def run(self) -> None:
        """Work until the end."""
        while self.turn():
            self._children.wait(self._pause())
        self._write()

    def turn(self) -> bool:
        """One look at everything; whether there is more to come."""
        now = self._clock()
        for pid, status in self._children.ended().items():
            self._note_end(pid, status, now)
        if self._children.hurried():
            self._services = {name: machine.hurried(each, now) for name, each in self._services.items()}
        wanted = self._wanted()
        for name in sorted({*self._services, *wanted}):
            self._step(name, wanted.get(name), now)
        self._write()
        return bool(self._services)

    def _wanted(self) -> Mapping[str, ServiceRequest]:
        if self._children.asked_to_end or self._files.place() != self._home:
            return {}
        found = {name: self._files.request(name) for name in self._files.names()}
        # A record that cannot be read says nothing: a service that runs goes on as it is.
        running = {name: self._services[name].request for name in found if name in self._services}
        return {**running, **{name: request for name, request in found.items() if request is not None}}

    def _step(self, name: str, wanted: ServiceRequest | None, now: float) -> None:
        service = self._services.get(name)
        if service is None:
            if wanted is None:
                return
            service = machine.new(wanted, now)
        service, action = machine.step(service, wanted, now)
        self._services[name] = service
        match action:
            case Action.START:
                self._start(name, service, now)
            case Action.ASK:
                self._children.ask(service.pid)
            case Action.KILL:
                self._children.kill(service.pid)
            case Action.DROP:
                del self._services[name]
            case Action.NOTHING if service.state is ServiceState.STARTING:
                if read_in_place(self._files.note(name)).get("start") == service.start:
                    self._services[name] = machine.ready(service)
            case Action.NOTHING:
                pass

    def _start(self, name: str, service: Service, now: float) -> None:
        self._starts += 1
        start = f"{self._me.pid}.{self._me.started}.{self._starts}"
        log, note = self._files.log(name), self._files.note(name)
        try:
            pid = self._children.start(service.request, log=log, note=note, start=start)
        except (HyperscalerError, OSError) as error:
            what = error.what if isinstance(error, HyperscalerError) else str(error)
            self._services[name] = machine.not_started(service, f"it cannot be started: {what}", now)
        else:
            self._services[name] = machine.started(service, pid, now, start)

    def _note_end(self, pid: int, status: int, now: float) -> None:
        for name, service in self._services.items():
            if service.pid == pid:
                self._services[name] = machine.ended(service, status, now)

    def _pause(self) -> float:
        """Seconds until something is due."""
        now = self._clock()
        due = [service.due - now for service in self._services.values() if service.due]
        starting = any(service.state is ServiceState.STARTING for service in self._services.values())
        return max(min([TICK / 10 if starting else TICK, *due]), 0.01)

    def _write(self) -> None:
        status: dict[str, dict[str, object]] = {name: each.to_json() for name, each in self._services.items()}
        if status == self._written or self._files.place() != self._home:
            return
        try:
            self._files.write_status(self._me, status)
        except (OSError, StateError):
            return  # tried again at the next look
        self._written = status
