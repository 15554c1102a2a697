"""`Children` as real processes, with what they print in bounded logs."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from emulator.adapters.control_groups.services import ServiceGroups
from emulator.adapters.services.spawn import Start, environment, spawn, take_orphans
from emulator.core.console_log import cut_log
from emulator.core.errors import StateError
from emulator.core.ports.services import ServiceRequest
from emulator.core.trust.opening import open_own
from emulator.core.trust.processes import PROC, status_fields

LOG_LIMIT, LOG_KEPT = 256 * 1024, 64 * 1024
"""Bytes from which a service's log is cut, and of its end that stay."""
_BUDGET = 256 * 1024
"""Bytes of a service's output that are taken in one wait. A service that prints more is made to wait itself."""

_CHUNK = 64 * 1024


@dataclass
class _Child:
    """A service's process; `output` is the reading end of its standard output, -1 once it is closed."""

    name: str
    pid: int
    output: int
    log: Path


class ServiceProcesses:
    """`Children` of this process, which must have no other threads.

    Args:
        resolve: a request's program as an absolute path with the arguments that come first.
        groups: where services get control groups.
    """

    def __init__(self, resolve: Callable[[str], Sequence[str]], groups: ServiceGroups | None = None) -> None:
        self._resolve, self._groups = resolve, groups
        self._children: dict[int, _Child] = {}
        self._selector = selectors.DefaultSelector()
        self._asked = self._hurried = False
        self._woken, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        take_orphans()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._asked |= number in (signal.SIGTERM, signal.SIGINT)
        self._hurried |= number == signal.SIGHUP

    @property
    def asked_to_end(self) -> bool:
        return self._asked

    def hurried(self) -> bool:
        was, self._hurried = self._hurried, False
        return was

    def start(self, request: ServiceRequest, *, log: Path, note: Path, start: str) -> int:
        """See `Children.start`."""
        argv = (*self._resolve(request.program), *request.arguments)
        join = self._groups.make(request) if self._groups else None
        reads, writes = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reads, False)
        try:
            pid = spawn(Start(request, argv, environment(note, start), writes, join))
        except BaseException:
            os.close(reads)
            raise
        finally:
            os.close(writes)
        self._children[pid] = _Child(request.name, pid, reads, log)
        self._selector.register(reads, selectors.EVENT_READ, pid)
        return pid

    def ask(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            # Our own child: its id is kept until we reap it. The kernel ends no first process of a namespace by a
            # signal that it does not handle; SIGKILL does what would happen to any other process.
            os.kill(pid, signal.SIGTERM if _handles(pid, signal.SIGTERM) else signal.SIGKILL)

    def kill(self, pid: int) -> None:
        child = self._children.get(pid)
        if child is not None and self._groups:
            self._groups.kill(child.name)
        for end in (os.killpg, os.kill):  # it leads a session of its own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(pid, signal.SIGKILL)

    def ended(self) -> Mapping[int, int]:
        """See `Children.ended`. What an ended service has left in its session is killed."""
        found: dict[int, int] = {}
        while True:
            try:
                result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return found
            if result is None:
                return found
            if result.si_pid in self._children:
                self.kill(result.si_pid)  # before it is reaped: as long as it is not, nobody else gets its id
            _, status = os.waitpid(result.si_pid, 0)
            child = self._children.pop(result.si_pid, None)
            if child is not None:
                found[child.pid] = os.waitstatus_to_exitcode(status)
                for _ in range(_BUDGET // _CHUNK):
                    if not self._take(child):
                        break
                self._close(child)
                if self._groups:
                    self._groups.remove(child.name)

    def wait(self, seconds: float) -> None:
        """See `Children.wait`."""
        deadline = time.monotonic() + seconds
        taken: dict[int, int] = dict.fromkeys(self._children, 0)
        while (left := deadline - time.monotonic()) > 0:
            events = [key for key, _ in self._selector.select(left)]
            for pid in [key.data for key in events if key.data is not None]:
                child = self._children[pid]
                taken[pid] = taken.get(pid, 0) + self._take(child)
                if taken[pid] > _BUDGET and child.output >= 0:
                    self._selector.unregister(child.output)
            if any(key.data is None for key in events):
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                break
        registered = self._selector.get_map()
        for child in self._children.values():
            if child.output >= 0 and child.output not in registered:
                self._selector.register(child.output, selectors.EVENT_READ, child.pid)

    def _take(self, child: _Child) -> int:
        """Move output to the log; returns its size. What the disk does not take is lost."""
        try:
            content = os.read(child.output, _CHUNK) if child.output >= 0 else b""
        except BlockingIOError:
            return 0
        if not content:
            self._close(child)
            return 0
        with contextlib.suppress(OSError, StateError):
            descriptor = open_own(child.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            try:
                os.write(descriptor, content)
            finally:
                os.close(descriptor)
        with contextlib.suppress(OSError):
            cut_log(child.log, limit=LOG_LIMIT, kept=LOG_KEPT)
        return len(content)

    def _close(self, child: _Child) -> None:
        if child.output >= 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.output)
            os.close(child.output)
            child.output = -1


def _handles(pid: int, number: signal.Signals) -> bool:
    """Whether the process catches or ignores a signal: proc_pid_status(5)."""
    bit = 1 << (number - 1)
    try:
        fields = status_fields(PROC / str(pid))
        return any(int(fields[name], 16) & bit for name in ("SigCgt", "SigIgn") if name in fields)
    except (OSError, ValueError):
        return True
