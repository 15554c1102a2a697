"""A simulated supervisor: records in the lab's directory, and files in the machine's directory for what runs."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from emulator.adapters.simulated.calls import CallHook
from emulator.core.errors import ServiceError
from emulator.core.ports.services import ServiceInfo, ServiceRequest, ServiceState
from emulator.supervisor.records import SupervisorFiles

SUPERVISOR = "supervisor"
"""The file that stands for the supervisor's own process; it holds the directory without which that ends."""


class SimulatedSupervisor:
    """`ServiceSupervisor` whose processes are files: what a service was started with.

    Args:
        directory: of the lab's supervisor.
        running: a directory of the machine, one for each lab; whatever empties it ends the processes.
        hook: see `CallHook`. Each of the real one's effects is a place of its own to be stopped at.
        broken: programs that end at once.
    """

    def __init__(
        self, directory: Path, running: Path, *, hook: CallHook | None = None, broken: frozenset[str] = frozenset()
    ) -> None:
        self._files, self._running = SupervisorFiles(directory), running
        self._hook = hook or CallHook()
        self._broken = broken
        self._lock = threading.Lock()

    def services(self) -> tuple[ServiceInfo, ...]:
        with self._hook.around("services.services"):
            return tuple(map(self._info, self._files.names()))

    def _info(self, name: str) -> ServiceInfo:
        request, process = self._files.request(name), self._running / name
        digest, definition = (request.digest, request.definition) if request else ("", {})
        if not self._alive():
            return ServiceInfo(name, digest, ServiceState.DOWN, "its supervisor does not run", definition=definition)
        if not process.is_file():
            return ServiceInfo(
                name, digest, ServiceState.BACKOFF, "it ended with exit code 1", definition=definition, failures=1
            )
        return ServiceInfo(name, digest, ServiceState.RUNNING, note="ready", pid=1, definition=definition)

    def _alive(self) -> bool:
        return (self._running / SUPERVISOR).is_file()

    def ensure(self, request: ServiceRequest) -> None:
        with self._lock:
            self._ensure(request)

    def _ensure(self, request: ServiceRequest) -> None:
        with self._hook.around("services.want"):
            if self._files.request(request.name) != request:
                self._files.want(request)
        with self._hook.around("services.launch"):
            self._running.mkdir(exist_ok=True, parents=True)
            (self._running / SUPERVISOR).write_text(str(self._files.directory))
            for name in self._files.names():
                known = self._files.request(name)
                if known is not None and known.program not in self._broken:
                    (self._running / name).write_text(json.dumps([known.program, *known.arguments]))
        if request.program in self._broken:
            raise ServiceError(f"the service {request.name} does not run: it ended with exit code 1")

    def remove(self, name: str) -> None:
        with self._lock:
            self._remove(name)

    def _remove(self, name: str) -> None:
        with self._hook.around("services.forget"):
            self._files.forget(name)
        with self._hook.around("services.end"):
            (self._running / name).unlink(missing_ok=True)
        if not self._files.names():
            with self._hook.around("services.clear"):
                (self._running / SUPERVISOR).unlink(missing_ok=True)
                if self._running.is_dir():
                    self._running.rmdir()
                self._files.remove_all()
