"""`ServiceSupervisor` for commands: it writes what is to run, starts the supervisor and waits for what that says."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from emulator.core.console_log import read_tail
from emulator.core.errors import ServiceError
from emulator.core.fs import private_directory
from emulator.core.ports import ProcessRunner
from emulator.core.ports.services import ServiceInfo, ServiceRequest, ServiceState
from emulator.core.trust.identity import ProcessIdentity
from emulator.core.units import printable
from emulator.supervisor.records import SupervisorFiles

_SYSTEMD = Path("/run/systemd/system")
_START_SECONDS = 600.0
"""Most that a supervisor or a service may take to start. Nothing that works comes near it: what fails says so, and what
dies is seen at once."""
_END_SECONDS = 60.0
"""Most that an end may take; after 10 seconds the supervisor itself sends SIGKILL."""
_POLL = 0.02


class ProcessSupervisor:
    """The supervisor whose files lie in `directory`.

    Args:
        directory: of the lab's supervisor.
        runner: starts it.
        command: our own program of services, as an absolute path with its first arguments.
        systemd: there is such a directory where systemd runs.
    """

    def __init__(
        self, directory: Path, runner: ProcessRunner, command: Sequence[str], *, systemd: Path = _SYSTEMD
    ) -> None:
        self._files = SupervisorFiles(directory)
        self._runner, self._command, self._systemd = runner, tuple(command), systemd
        self._lock = threading.Lock()  # other processes are kept out by the lab's lock

    def services(self) -> tuple[ServiceInfo, ...]:
        """See `ServiceSupervisor.services`."""
        return self._files.services()

    def ensure(self, request: ServiceRequest) -> None:
        """See `ServiceSupervisor.ensure`."""
        with self._lock:
            self._ensure(request)

    def _ensure(self, request: ServiceRequest) -> None:
        before = self._seen(request.name)
        if self._files.request(request.name) != request:
            self._files.want(request)
        failures = before.failures if before is not None and before.digest == request.digest else 0
        running = self._files.supervisor()
        if running is None or not running.signal(signal.SIGHUP):
            self._launch()
            running = self._await_supervisor()
        self._await_start(request.name, running, failures)

    def remove(self, name: str) -> None:
        """See `ServiceSupervisor.remove`."""
        with self._lock:
            self._remove(name)

    def _remove(self, name: str) -> None:
        self._files.forget(name)
        deadline = time.monotonic() + _END_SECONDS
        if (running := self._files.supervisor()) is not None:
            running.signal(signal.SIGHUP)
        while (running := self._files.supervisor()) is not None:
            if not self._files.names():
                self._await_end(running, deadline - time.monotonic())
                break
            if name not in self._files.kept():
                break
            if time.monotonic() > deadline:
                raise self._stuck(running)
            time.sleep(_POLL)
        self._files.clear(name)
        self._files.remove_all()

    # ------------------------------------------------------------- start
    def _launch(self) -> None:
        """Start the supervisor: as a unit of its own where systemd runs, which then keeps it and gives it a part of the
        tree of control groups; else as a daemon."""
        private_directory(self._files.directory)
        words = [*self._command, "supervise", str(self._files.directory)]
        if os.geteuid() == 0 and self._systemd.is_dir() and shutil.which("systemd-run"):
            # One that crashed just now is about to be started again by systemd: then its unit is there already.
            unit = ["systemd-run", "--quiet", "--collect", f"--unit={self._unit()}", *_PROPERTIES, "--"]
            self._runner.run([*unit, *words, "--delegated"], timeout=_START_SECONDS, check=False)
        else:
            self._runner.run([*words, "--detach"], timeout=_START_SECONDS)

    def _unit(self) -> str:
        digest = hashlib.sha256(os.fsencode(self._files.directory)).hexdigest()[:16]
        return f"hyperscaler-supervisor-{digest}"

    def _await_supervisor(self) -> ProcessIdentity:
        deadline = time.monotonic() + _START_SECONDS / 5
        while (running := self._files.supervisor()) is None:
            if time.monotonic() > deadline:
                raise ServiceError(
                    "the lab's supervisor does not start",
                    where=str(self._files.directory),
                    fix=f"if systemd runs: journalctl -u {self._unit()}",
                )
            time.sleep(_POLL)
        return running

    def _await_start(self, name: str, running: ProcessIdentity, failures: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            lives = running.lives()  # looked at first: what it wrote before its end counts
            info = self._seen(name)
            if info is None or not lives:
                raise ServiceError("the lab's supervisor has ended unexpectedly", where=str(self._files.directory))
            if info.state is ServiceState.RUNNING:
                return
            if info.state is ServiceState.BACKOFF and info.failures > failures:
                raise self._failed(name, info.reason)
            if time.monotonic() > deadline:
                raise self._failed(name, info.reason or "it does not say that it is ready")
            time.sleep(_POLL)

    def _seen(self, name: str) -> ServiceInfo | None:
        return next((info for info in self.services() if info.name == name), None)

    def _failed(self, name: str, why: str) -> ServiceError:
        log = self._files.log(name)
        lines = [line for line in printable(read_tail(log, limit=4096)).splitlines() if line.strip()][-4:]
        said = "".join(f"\n    | {line}" for line in lines)
        return ServiceError(
            f"the service {name} does not run: {why}{said}", where=str(log), fix="see that log, then run it again"
        )

    # ------------------------------------------------------------- end
    def _await_end(self, running: ProcessIdentity, seconds: float) -> None:
        """Wait for a supervisor that has nothing left to do; one that does not end is killed, and its services with it.

        Raises:
            ServiceError: it cannot be killed.
        """
        if running.ended_within(max(seconds / 2, 0.0)):
            return
        running.signal(signal.SIGKILL)
        if not running.ended_within(max(seconds / 2, 5.0)):
            raise self._stuck(running)

    def _stuck(self, running: ProcessIdentity) -> ServiceError:
        return ServiceError(
            f"the lab's supervisor (process {running.pid}) does not end",
            where=str(self._files.directory),
            fix="it is blocked in the kernel, often by a disk; repair that or reboot, then try again",
        )


_PROPERTIES = (
    "--property=Description=hyperscaler supervisor",
    "--property=Delegate=yes",
    "--property=KillMode=mixed",
    "--property=UMask=0077",
    # It ends with 0 when it has nothing left to keep; after a crash its services are gone with it, and it starts anew.
    "--property=Restart=on-failure",
    "--property=RestartSec=2",
)
