"""Finds the processes that this one started, directly or indirectly, unless they became daemons."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_PROC = Path("/proc")


def descendants(pid: int) -> tuple[int, ...]:
    """Process ids of the children of `pid`, their children and so on, parents first."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):  # it ended while we looked
                # The name of a program may hold spaces and brackets; what follows the last bracket may not.
                parent = int((entry / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, ())]
        found += level
    return tuple(found)


def end_descendants() -> None:
    """SIGTERM to all of this process's descendants; does not wait for them."""
    for pid in descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
