"""Logs that a guest or a service writes without end: reading them, and keeping them short.

The writer has the file open for appending (QEMU opens a console log so), which makes cutting it short safe: the next
write goes to the new end and leaves no hole.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from pathlib import Path
from typing import BinaryIO

from emulator.core.ports.guest_accounts import is_reserved

KEY_MARK = b"hyperscaler-host-key:"
"""Begins what an image prints of its host key. Those lines survive when a log is cut."""

SEARCHED_BYTES = 32 << 20
"""Bytes of a console that are searched for host keys, from its end. A boot prints about 0.2 MiB."""

_LINE = 65536  # bytes read at once: a guest may write a line without end
_BLOCK = 1 << 20
_KEYS_KEPT = 32


def marked_lines(path: Path, *, kept: int = _KEYS_KEPT, offset: int = 0) -> str:
    """The last lines of a console, from `offset` on, that hold host keys, as far as they are among its last 32 MiB.

    A guest may print without end, also while this reads, and the file is looked at once a second.
    """
    try:
        with path.open("rb") as file:
            found = _marked(file, kept, offset)
    except FileNotFoundError:
        return ""
    return found.decode("utf-8", "replace")


def _marked(file: BinaryIO, kept: int, offset: int = 0) -> bytes:
    found: deque[bytes] = deque(maxlen=kept)
    left = SEARCHED_BYTES
    begin = file.seek(max(offset, file.seek(0, os.SEEK_END) - left))
    if not _has_mark(file, left):
        return b""
    file.seek(begin)
    while line := file.readline(min(_LINE, left)):
        left -= len(line)
        if KEY_MARK in line:
            found.append(line[:4096])
    return b"".join(line if line.endswith(b"\n") else line + b"\n" for line in found)


def _has_mark(file: BinaryIO, left: int) -> bool:
    """Whether a host key is anywhere in the next bytes: most looks are at a console without one, and to take it apart
    by lines takes twenty times as long."""
    end = b""
    while block := file.read(min(_BLOCK, left)):
        left -= len(block)
        if KEY_MARK in end + block:
            return True
        end = block[1 - len(KEY_MARK) :]
    return False


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
            are left alone; those of a guest's own user are cut whatever names it gave them.
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
        alone = found.st_nlink == 1 or is_reserved(found.st_uid)
        if not stat.S_ISREG(found.st_mode) or not alone or found.st_size <= limit:
            return 0
        with os.fdopen(os.dup(descriptor), "rb") as file:
            keys = _marked(file, _KEYS_KEPT)
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
