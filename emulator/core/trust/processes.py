"""Processes of this host, distinguished from others that get their ids later.

A signal goes through a descriptor of the process (pidfd_open(2)) that was opened *before* the look at whose it is: then
the look was at that very process, or at nothing, and a signal to one that is gone reaches nobody.
"""

from __future__ import annotations

import contextlib
import os
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
"""States of a process that only waits for its parent to ask how it ended, and of one that is being taken away."""


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
                handle = os.pidfd_open(pid)
            except (ProcessLookupError, OverflowError):
                continue
            stack.callback(os.close, handle)
            if is_ours(pid):
                held[handle] = pid
        yield held


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
