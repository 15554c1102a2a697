"""Locks of files between processes: no wait is without end, and one that ends in vain names who was in the way."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from emulator.core.errors import ConflictError
from emulator.core.units import printable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.1  # seconds between two tries


def acquire(
    descriptor: int,
    path: Path,
    *,
    seconds: float,
    pause: Callable[[float], bool] | None = None,
    on_wait: Callable[[str], None] | None = None,
    shared: bool = False,
) -> bool:
    """Take the lock of an open file; the kernel lets go when the holder ends, however it ends.

    Args:
        descriptor: of the file, open for reading.
        path: where it is, for the message.
        seconds: how long to wait for another holder; 0 gives up at once.
        pause: waits so many seconds; true when the wait is to end, and then so does this.
        on_wait: called once with the holder, when it is not free at once; what it raises ends the wait.
        shared: others may have it, too, if they share it; else it is this one's alone.

    Returns:
        Whether it was taken; False when `pause` said so.

    Raises:
        ConflictError: it was held all the time; names the holder.
    """
    deadline = time.monotonic() + seconds
    delay = _FIRST_PAUSE
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if on_wait is not None:
                on_wait(holder(descriptor, path))
                on_wait = None
            if time.monotonic() >= deadline:
                raise _conflict(descriptor, path, seconds) from None
        if pause is None:
            time.sleep(delay)
        elif pause(delay):
            return False
        delay = min(delay * 2, _LONGEST_PAUSE)


def _conflict(descriptor: int, path: Path, seconds: float) -> ConflictError:
    waited = f"; it did not end within {seconds:g} s" if seconds else ""
    fix = "look at what that process does, and end it if it hangs" if seconds else "use --wait SECONDS"
    return ConflictError(
        f"held by {holder(descriptor, path)}{waited}", where=str(path), fix=f"wait for it to end, or {fix}"
    )


def holder(descriptor: int, path: Path) -> str:
    """Who holds the lock, by the file's own text or, where it has none, by what the kernel knows of it."""
    text = ""
    with suppress(IsADirectoryError):
        text = os.pread(descriptor, 4096, 0).decode("utf-8", "replace")
    return name_of(text) if text.startswith('{"pid"') else _by_the_kernel(path)


def name_of(text: str) -> str:
    """The holder as the text of a lock file has it."""
    found: Any
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = {}
    if not isinstance(found, dict):
        found = {}
    return printable(
        f"process {found.get('pid', '?')} on {found.get('host', '?')} since {found.get('since', '?')}"
        f" ({found.get('purpose', 'unknown purpose')})"
    )


def _by_the_kernel(path: Path) -> str:
    """The process that `/proc/locks` has for the file; one of another pid namespace is not to be seen there."""
    try:
        inode = f":{path.stat().st_ino}"
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        pid = next(row[4] for row in rows if row[1] == "FLOCK" and row[5].endswith(inode))
        words = Path("/proc", pid, "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except (OSError, StopIteration, IndexError):
        return "another process"
    return f"process {pid} ({printable(words)[:120] or 'unknown command'})"
