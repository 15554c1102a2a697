"""Finds the processes that this one started, directly or indirectly, unless they became daemons."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from emulator.core.trust.processes import PROC, holding, process_ids, send, stat_of


def descendants(pid: int, *, proc: Path = PROC) -> tuple[int, ...]:
    """Process ids of the children of `pid`, their children and so on, parents first."""
    children: dict[int, list[int]] = {}
    for each in process_ids(proc=proc):
        parent = _parent(each, proc)
        if parent is not None:
            children.setdefault(parent, []).append(each)
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, ())]
        found += level
    return tuple(found)


def _parent(pid: int, proc: Path = PROC) -> int | None:
    found = stat_of(pid, proc=proc)
    return found.parent if found else None


def _is_ours(pid: int) -> bool:
    """Whether it still is a descendant of this process."""
    seen: int | None = pid
    while seen:
        seen = _parent(seen)
        if seen == os.getpid():
            return True
    return False


def end_descendants() -> None:
    """SIGTERM to all of this process's descendants; does not wait for them."""
    with holding(descendants(os.getpid()), _is_ours) as held:
        send(held, signal.SIGTERM)
