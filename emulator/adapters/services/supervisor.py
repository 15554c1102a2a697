"""`ServiceSupervisor` for commands: it writes what is to run, starts the supervisor and waits for what that says."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

from emulator.core.console_log import read_tail
from emulator.core.errors import ServiceError
from emulator.core.fs import private_directory
from emulator.core.ports import ProcessRunner
from emulator.core.ports.services import ServiceInfo, ServiceRequest, ServiceState
from emulator.core.trust.identity import ProcessIdentity
from emulator.core.trust.processes import stat_of
from emulator.core.units import printable
from emulator.core.waiting.watch import Clock, Look, Patience, wait_until
from emulator.supervisor.records import SupervisorFiles

_SYSTEMD = Path("/run/systemd/system")
_START_SECONDS = 600.0
"""Most that a supervisor or a service may take to start, unless it is at work. Nothing that works comes near it: what
fails says so, and what dies is seen at once."""
_END_SECONDS = 60.0
"""The same for an end. After 10 seconds the supervisor itself sends SIGKILL."""
_POLL = 0.02


class ProcessSupervisor:
    """The supervisor whose files lie in `directory`.

    Args:
        directory: of the lab's supervisor.
        runner: starts it.
        command: our own program of services, as an absolute path with its first arguments.
        systemd: there is such a directory where systemd runs.
        clock: for tests.
    """

    def __init__(
        self,
        directory: Path,
        runner: ProcessRunner,
        command: Sequence[str],
        *,
        systemd: Path = _SYSTEMD,
        clock: Clock | None = None,
    ) -> None:
        self._files = SupervisorFiles(directory)
        self._runner, self._command, self._systemd = runner, tuple(command), systemd
        self._clock = clock or Clock()
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
        if (running := self._files.supervisor()) is not None:
            running.signal(signal.SIGHUP)
            if self._files.names():
                self._await_removal(name)
            else:
                self._await_end(running)
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
        def look() -> Look[ProcessIdentity | None]:
            running = self._files.supervisor()
            return Look(running, running is not None, pause=_POLL)

        waited = wait_until(look, Patience.within(_START_SECONDS / 5), clock=self._clock)
        if waited.value is None:
            raise ServiceError(
                f"the lab's supervisor does not start ({waited.given_up})",
                where=str(self._files.directory),
                fix=f"if systemd runs: journalctl -u {self._unit()}; then run the same command again",
            )
        return waited.value

    def _await_start(self, name: str, running: ProcessIdentity, failures: int) -> None:
        """Wait until the service runs; it may take longer than its time while its process works.

        Raises:
            ServiceError: it does not, or the supervisor has ended.
        """

        def look() -> Look[ServiceInfo]:
            lives = running.lives()  # looked at first: what it wrote before its end counts
            info = self._seen(name)
            if info is None or not lives:
                raise ServiceError(
                    "the lab's supervisor has ended unexpectedly",
                    where=str(self._files.directory),
                    fix="run the same command again; if that does not help, look at the host's log for what ended it",
                )
            if info.state is ServiceState.BACKOFF and info.failures > failures:
                raise self._failed(name, info.reason)
            sign = (info.state, info.pid, _worked(info.pid))
            return Look(info, info.state is ServiceState.RUNNING, sign=sign, pause=_POLL)

        waited = wait_until(look, Patience.within(_START_SECONDS), clock=self._clock)
        if not waited.done:
            why = waited.value.reason or "it does not say that it is ready"
            raise self._failed(name, f"{why} ({waited.given_up})")

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
    def _await_removal(self, name: str) -> None:
        """Wait until the supervisor, which has other services, has ended this one.

        Raises:
            ServiceError: it has not.
        """

        def look() -> Look[ProcessIdentity | None]:
            running = self._files.supervisor()
            gone = running is None or name not in self._files.kept()
            return Look(running, gone, sign=_worked(running.pid) if running else None, pause=_POLL)

        waited = wait_until(look, Patience.within(_END_SECONDS), clock=self._clock)
        if not waited.done and waited.value is not None:
            raise self._stuck(waited.value)

    def _await_end(self, running: ProcessIdentity) -> None:
        """Wait for a supervisor that has nothing left to do; one that does not end is killed, and its services with it.

        Raises:
            ServiceError: it cannot be killed.
        """
        if running.ended_within(_END_SECONDS / 2):
            return
        running.signal(signal.SIGKILL)
        if not running.ended_within(_END_SECONDS / 2):
            raise self._stuck(running)

    def _stuck(self, running: ProcessIdentity) -> ServiceError:
        return ServiceError(
            f"the lab's supervisor (process {running.pid}) does not end",
            where=str(self._files.directory),
            fix="it is blocked in the kernel, often by a disk; repair that or reboot, then try again",
        )


def _worked(pid: int) -> float:
    """Processor time of a process, in tenths of a second: too coarse for what only looks around to move it."""
    found = stat_of(pid) if pid else None
    return round(found.seconds, 1) if found else 0.0


_PROPERTIES = (
    "--property=Description=hyperscaler supervisor",
    "--property=Delegate=yes",
    "--property=KillMode=mixed",
    "--property=UMask=0077",
    # It ends with 0 when it has nothing left to keep; after a crash its services are gone with it, and it starts anew.
    "--property=Restart=on-failure",
    "--property=RestartSec=2",
)
