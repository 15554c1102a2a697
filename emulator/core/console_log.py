"""Logs that a guest or a service writes without end: reading them, and keeping them short.

The writer has the file open for appending (QEMU opens a console log so), which makes cutting it short safe: the next
write goes to the new end and leaves no hole.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from pathlib import Path

KEY_MARK = b"hyperscaler-host-key:"
"""Begins what an image prints of its host key. Those lines survive when a log is cut."""

_LINE = 65536  # bytes read at once: a guest may write a line without end
_KEYS_KEPT = 32


def marked_lines(path: Path, *, kept: int = _KEYS_KEPT) -> str:
    """The last lines of a console that hold host keys; a guest may have printed any amount after them."""
    try:
        with path.open("rb") as file:
            found = _marked(file.fileno(), kept)
    except FileNotFoundError:
        return ""
    return found.decode("utf-8", "replace")


def _marked(descriptor: int, kept: int) -> bytes:
    found: deque[bytes] = deque(maxlen=kept)
    with os.fdopen(os.dup(descriptor), "rb") as file:
        file.seek(0)
        while line := file.readline(_LINE):
            if KEY_MARK in line:
                found.append(line[:4096])
    return b"".join(line if line.endswith(b"\n") else line + b"\n" for line in found)


def read_tail(path: Path, *, limit: int = 256 * 1024) -> str:
    """The end of a console log; empty while there is none. Guests write it, so it is bounded and may hold anything."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - limit))
            return file.read(limit).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def cut_log(path: Path, *, limit: int, kept: int) -> int:
    """Cut a log that has grown beyond a limit, in place, so that its writer goes on in it.

    What stays is a line that says so, the host keys that were printed, and the end. What the writer adds meanwhile may
    come before that or be lost. On a full disk the rest is lost, too: the bound counts more.

    Args:
        path: of the log, in a directory that its writer cannot change. Links, and files with another name elsewhere,
            are left alone.
        limit: bytes from which it is cut.
        kept: bytes of its end that stay, fewer than `limit`.

    Returns:
        How many bytes were taken away, 0 for a log that is short enough.

    Raises:
        OSError: it cannot be opened or cut.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size <= limit:
            return 0
        keys = _marked(descriptor, _KEYS_KEPT)
        end = os.pread(descriptor, kept, os.fstat(descriptor).st_size - kept)
        gone = os.fstat(descriptor).st_size - len(end)
        os.ftruncate(descriptor, 0)
        said = f"\n[hyperscaler: {gone} bytes of this log were removed, the limit is {limit}]\n".encode()
        _append(descriptor, said + keys + end)
        return gone
    finally:
        os.close(descriptor)


def _append(descriptor: int, content: bytes) -> None:
    """Write what fits."""
    left = memoryview(content)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except OSError:  # the disk is full, or the file may grow no further: the log is short, which was the task
            return
