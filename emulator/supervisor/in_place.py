"""Small files that are written over and over in place: what the supervisor and its services say of themselves.

Their blocks are allocated once, so that they can still be written when the disk is full, which is when it matters; and
they are not synced, because they are worth nothing after a reboot. A checksum shows a reader what was half written.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulator.core.errors import StateError
from emulator.core.trust.opening import open_own

SIZE = 64 * 1024
"""Bytes of such a file."""

_TRIES, _PAUSE = 5, 0.002  # a reader that meets a write half way tries again


def write_in_place(path: Path, data: Mapping[str, Any]) -> bool:
    """Write a JSON object over the file's old content; whether there was room for it.

    Raises:
        OSError: the file cannot be made or opened.
        StateError: see `open_own`.
    """
    body = json.dumps(data, sort_keys=True).encode()
    content = f"{zlib.crc32(body):08x} ".encode() + body
    if len(content) > SIZE:
        return False
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        if os.fstat(descriptor).st_size < SIZE:
            os.posix_fallocate(descriptor, 0, SIZE)
        return os.pwrite(descriptor, content.ljust(SIZE, b"\0"), 0) == SIZE
    finally:
        os.close(descriptor)


def read_in_place(path: Path) -> Mapping[str, Any]:
    """The object in the file; empty where there is none, it cannot be believed, or it is not this user's file."""
    for number in range(_TRIES):
        if number:
            time.sleep(_PAUSE)
        content = read_own(path, limit=SIZE)
        if content is None:
            return {}
        claimed, _, body = content.rstrip(b"\0").partition(b" ")
        with contextlib.suppress(ValueError, RecursionError):
            if int(claimed, 16) == zlib.crc32(body):
                data = json.loads(body)
                return data if isinstance(data, dict) else {}
    return {}


def read_own(path: Path, *, limit: int) -> bytes | None:
    """The first `limit` bytes of a file that `open_own` opens and nobody else may write, else None."""
    try:
        descriptor = open_own(path, os.O_RDONLY)
    except (OSError, StateError):
        return None
    try:
        if os.fstat(descriptor).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return None
        return os.pread(descriptor, limit, 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)
