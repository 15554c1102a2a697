"""Processes of this host, distinguished from others that get their ids later.

A signal goes through a descriptor of the process (pidfd_open(2)) that was opened *before* the look at whose it is: then
the look was at that very process, or at nothing, and a signal to one that is gone reaches nobody.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


_STATE, _PARENT, _SESSION, _TIMES, _START = 0, 1, 3, slice(11, 15), 19
"""Places in `_fields`; proc_pid_stat(5) counts from 1 and has two more in front."""
ENDED_STATES = ("Z", "X")
"""States of a thread that only waits for its parent to ask how it ended, and of one that is being taken away."""


@dataclass(frozen=True, slots=True)
class ProcessStat:
    """What the kernel says of a process.

    Attributes:
        state: one letter, such as `S` for one that sleeps.
        parent: process id of its parent.
        session: id of its session.
        seconds: of processor time, also of children that have ended and that it has waited for.
        start: ticks since boot, which with the id identifies it.
    """

    state: str
    parent: int
    session: int
    seconds: float
    start: str

    @property
    def ended(self) -> bool:
        """Whether it has ended, and its parent has not asked how."""
        return self.state in ENDED_STATES


def stat_of(pid: int, *, proc: Path = PROC) -> ProcessStat | None:
    """What the kernel says of the process now; None if it is gone."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name of a program may hold spaces and brackets; what follows the last bracket may not.
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
        fields = text.rsplit(")", 1)[1].split()
        ticks = sum(map(int, fields[_TIMES]))
        return ProcessStat(
            state=fields[_STATE],
            parent=int(fields[_PARENT]),
            session=int(fields[_SESSION]),
            seconds=ticks / os.sysconf("SC_CLK_TCK"),
            start=fields[_START],
        )
    return None


def start_time(pid: int, *, proc: Path = PROC) -> str:
    """Start time of the process in ticks since boot, which with the id identifies it uniquely; empty if it is gone."""
    found = stat_of(pid, proc=proc)
    return found.start if found else ""


def running_thread(pid: int, *, proc: Path = PROC) -> Path | None:
    """The directory below `proc` of a thread of the process that has not ended; None when all have.

    It is the process's own, unless its first thread has ended: the others go on without it, and the kernel then shows
    neither namespaces nor files in the process's directory. To stay unseen, a process ends that thread.
    """
    entry = proc / str(pid)
    with contextlib.suppress(OSError):  # it is gone
        if _state(entry) not in ENDED_STATES:
            return entry
        for task in (entry / "task").iterdir():
            with contextlib.suppress(OSError):
                if _state(task) not in ENDED_STATES:
                    return task
    return None


def _state(entry: Path) -> str:
    """The letter of proc_pid_status(5); empty where the kernel gives none."""
    return status_fields(entry).get("State", "")[:1]


def status_fields(entry: Path) -> dict[str, str]:
    """The fields of a process's or thread's `status`.

    Raises:
        OSError: it is gone.
    """
    lines = (line.partition(":") for line in (entry / "status").read_text(errors="replace").splitlines())
    return {name: value.strip() for name, _, value in lines}


def process_ids(*, proc: Path = PROC) -> Iterator[int]:
    """Ids of all processes."""
    for entry in proc.iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


@contextlib.contextmanager
def holding(pids: Iterable[int], is_ours: Callable[[int], bool]) -> Iterator[dict[int, int]]:
    """Those of the processes that `is_ours` still says are ours once they are held: descriptor to id. Closed at the end
    of the block."""
    with contextlib.ExitStack() as stack:
        held: dict[int, int] = {}
        for pid in pids:
            try:
                handle = _opened(pid, stack)
            except (ProcessLookupError, OverflowError):
                continue
            stack.callback(os.close, handle)
            if is_ours(pid):
                held[handle] = pid
        yield held


def _opened(pid: int, stack: contextlib.ExitStack) -> int:
    """A descriptor of the process. There may be more processes than the files that are usually allowed, where a user
    wants to be left alone; the limit is that of before at the end of the `stack`."""
    try:
        return os.pidfd_open(pid)
    except OSError as error:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        if error.errno != errno.EMFILE or limits[0] == limits[1]:
            raise
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        return os.pidfd_open(pid)


def send(handles: Iterable[int], number: signal.Signals) -> None:
    """Signal held processes; those that are gone, or not ours to signal, are left out."""
    for handle in handles:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(handle, number)


def await_end(held: dict[int, int], seconds: float) -> None:
    """Drop from `held` the processes that end within `seconds`: their descriptors become readable."""
    deadline = time.monotonic() + seconds
    poll = select.poll()
    for handle in held:
        poll.register(handle, select.POLLIN)
    while held:
        ended = poll.poll(max(deadline - time.monotonic(), 0.0) * 1000)
        if not ended:
            return
        for handle, _event in ended:
            poll.unregister(handle)
            del held[handle]


def end(held: dict[int, int], steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send the signals one after the other, each with the seconds to wait after it; those that end leave `held`."""
    for number, wait in steps:
        send(held, number)
        await_end(held, wait)
