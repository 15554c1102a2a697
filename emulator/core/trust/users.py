"""All that runs as certain users, whatever it is: for users of whom each is one guest's QEMU and nothing else.

A guest that broke out of QEMU may leave its process, its namespaces and its control group, but not its user.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

from emulator.core.trust.processes import (
    ENDED_STATES,
    PROC,
    end,
    holding,
    process_ids,
    running_thread,
    send,
    status_fields,
)

_PAUSES = (0.0, 0.01, 0.05, 0.1, 0.2)
"""Seconds before each try: a thread stops when it next leaves the kernel."""
_END_SECONDS = 5.0
"""After SIGKILL; what the kernel blocks longer does not end."""
_AT_A_TIME = 64
_STOPPED = ("T", "t")
"""Of proc_pid_status(5): stopped by a signal, or by who traces it."""
_WAITS = "D"
"""In the kernel, for a disk, say, or for a child that has the process's memory (vfork(2)). A stop that was asked for
begins before it gets out of there."""


def users_of(pid: int, *, proc: Path = PROC) -> frozenset[int]:
    """The users whose rights a process has (real, effective, saved and of the file system); none if all of its threads
    have ended."""
    with contextlib.suppress(OSError, ValueError):
        if running_thread(pid, proc=proc) is not None:
            return frozenset(map(int, status_fields(proc / str(pid)).get("Uid", "").split()))
    return frozenset()


def stop_users(uids: Collection[int]) -> frozenset[int]:
    """Stop everything that runs as these users (SIGSTOP).

    Returns:
        Those of whom something was there, and nothing runs any more.
    """
    wanted, seen, going = frozenset(uids), set[int](), set[int]()
    for pause in _PAUSES:  # one of them may start another, or let a stopped one go on
        time.sleep(pause)
        states: dict[int, tuple[frozenset[int], bool]] = {}
        for held in _held(wanted):
            send(held, signal.SIGSTOP)
            states |= {pid: (users_of(pid) & wanted, _stands_still(pid)) for pid in held.values()}
        seen |= {uid for uids_of_it, _ in states.values() for uid in uids_of_it}
        going = {uid for uids_of_it, still in states.values() if not still for uid in uids_of_it}
        if not going:
            break
    return frozenset(seen - going)


def let_users_go_on(uids: Collection[int]) -> None:
    """Undo `stop_users` (SIGCONT); nothing happens to what is not stopped."""
    wanted = frozenset(uids)
    for held in _held(wanted):
        send(held, signal.SIGCONT)


def end_user(uid: int) -> bool:
    """End everything that runs as this user (SIGKILL); whether nothing is left."""
    for pause in _PAUSES:  # one of them may start another
        time.sleep(pause)
        with holding(_processes(frozenset({uid})), lambda pid: uid in users_of(pid)) as held:
            if not held:
                return True
            end(held, ((signal.SIGKILL, _END_SECONDS),))
    return False


def stopped_users(uids: Collection[int]) -> frozenset[int]:
    """Those of the users of whom a process is stopped."""
    wanted = frozenset(uids)
    if not wanted:
        return frozenset()
    return frozenset(uid for pid in _processes(wanted) if _is_stopped(pid) for uid in users_of(pid) & wanted)


def _held(uids: frozenset[int]) -> Iterator[Mapping[int, int]]:
    """Their processes, each with its descriptor: so many at a time as a service may have files open besides its own."""
    pids = _processes(uids)
    while some := tuple(itertools.islice(pids, _AT_A_TIME)):
        with holding(some, lambda pid: bool(users_of(pid) & uids)) as held:
            yield held


def _processes(uids: frozenset[int]) -> Iterator[int]:
    pids: Iterable[int] = process_ids()
    return (pid for pid in pids if users_of(pid) & uids)


def _stands_still(pid: int) -> bool:
    """Whether no thread of a process runs that was asked to stop: they stop one after the other."""
    return all(letter in (*_STOPPED, _WAITS, *ENDED_STATES, "") for letter in _letters(pid))


def _is_stopped(pid: int) -> bool:
    """Whether it was asked to stop: one thread has, and the others are no further than to wait in the kernel."""
    return _stands_still(pid) and any(letter in _STOPPED for letter in _letters(pid))


def _letters(pid: int) -> list[str]:
    """The states of its threads; none if it is gone."""
    with contextlib.suppress(OSError):
        return [_letter(task) for task in (PROC / str(pid) / "task").iterdir()]
    return []


def _letter(task: Path) -> str:
    with contextlib.suppress(OSError):
        return status_fields(task).get("State", "")[:1]
    return ""
