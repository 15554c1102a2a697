"""Exclusive locks between processes: one per lab, and one for what labs share on the host.

`flock` on a file that outlives the holder: the kernel lets go when the holder dies, however it dies, so a
stale lock cannot block. The file names the holder for the message that the loser prints.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emulator.errors import ConflictError, StateError


@contextmanager
def exclusive_lock(path: Path, *, purpose: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock at `path` while the block runs.

    Args:
        purpose: what the lock guards and which command holds it, for the loser's message.
        wait_seconds: how long to wait for another holder; 0 gives up at once.

    Raises:
        ConflictError: somebody else holds it; names process id, host, start time and command.
    """
    descriptor = _open(path)
    try:
        _acquire(descriptor, path, time.monotonic() + wait_seconds)
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "purpose": purpose,
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateError(
            f"the lock file cannot be opened: {error.strerror}",
            where=str(path),
            fix="run as the user that owns this directory (root for the default one), or set HYPERSCALER_HOME",
        ) from error


def _acquire(descriptor: int, path: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _conflict(descriptor, path) from None
        time.sleep(0.1)


def _conflict(descriptor: int, path: Path) -> ConflictError:
    who = _who(os.pread(descriptor, 4096, 0).decode("utf-8", "replace"))
    return ConflictError(f"held by {who}", where=str(path), fix="wait for it to end, or use --wait SECONDS")


def _who(text: str) -> str:
    holder: Any
    try:
        holder = json.loads(text)
    except ValueError:
        holder = {}
    if not isinstance(holder, dict):
        holder = {}
    return (
        f"process {holder.get('pid', '?')} on {holder.get('host', '?')} since {holder.get('since', '?')}"
        f" ({holder.get('purpose', 'unknown purpose')})"
    )


def holder_of(path: Path) -> str:
    """What holds the lock now, or an empty string. Never takes the lock, so it cannot get in anybody's way.

    `/proc/locks` lists flock holders by device and inode; the file's own text names them better.
    """
    try:
        status = path.stat()
        text = path.read_text()
        locks = Path("/proc/locks").read_text()
    except OSError:
        return ""
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    if f" {major:02x}:{minor:02x}:{status.st_ino} " not in locks or not text:
        return ""
    return _who(text)
