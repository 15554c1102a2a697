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
from pathlib import Path

PROC = Path("/proc")


def start_time(pid: int, *, proc: Path = PROC) -> str:
    """Start time of the process in ticks since boot, which with the id identifies it uniquely; empty if it is gone."""
    try:
        return (proc / str(pid) / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


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
    """Send the signals one after the other, and wait so many seconds after each; who ended is dropped from `held`."""
    for number, wait in steps:
        send(held, number)
        await_end(held, wait)
