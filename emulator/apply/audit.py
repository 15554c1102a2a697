"""The host's record of commands that changed something: append-only, one JSON line per begin and per end.

A killed command leaves a begin without an end. Lines of several commands mix; `id` ties an end to its begin. The file
outlives the labs that it is about.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulator.core.errors import StateError
from emulator.core.fs import append_line
from emulator.core.locking import acquire
from emulator.core.trust.opening import open_own

VERSION = 1
MAX_LINE = 1 << 20
WAIT_SECONDS = 10.0
"""Seconds to wait for other processes that write a line."""


class AuditLog:
    """The audit log at `path`, created with its directory at the first append; mode 0600, never a link."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one line; it is on the disk when this returns.

        Raises:
            StateError: the line cannot be written, for example because the disk is full.
            ConflictError: another process holds the file; names it.
        """
        text = json.dumps({"version": VERSION, "time": _now(), **entry}, ensure_ascii=True, separators=(",", ":"))
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = open_own(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            try:
                acquire(descriptor, self.path, seconds=WAIT_SECONDS)
                append_line(descriptor, text.encode() + b"\n")
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StateError(
                f"the audit log cannot be written: {error.strerror}",
                where=str(self.path),
                fix="free space on that file system, or fix the file's permissions",
            ) from error

    def read(self) -> tuple[list[Mapping[str, Any]], int]:
        """All entries, oldest first, and the number of unreadable lines.

        Raises:
            StateError: this user may not read the file.
        """
        entries: list[Mapping[str, Any]] = []
        bad = 0
        try:
            with self.path.open("rb") as file:
                while line := file.readline(MAX_LINE):
                    entry = _parse(line)
                    if entry is not None:
                        entries.append(entry)
                    elif line.strip():
                        bad += 1
        except FileNotFoundError:
            return [], 0
        except OSError as error:
            raise StateError(
                f"the audit log cannot be read: {error.strerror}", where=str(self.path), fix="run as root (sudo)"
            ) from error
        return entries, bad


def _parse(line: bytes) -> Mapping[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        return None
    # A line of another format may mean something else by the same words, so it counts as unreadable.
    return entry if entry.get("version") == VERSION else None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
