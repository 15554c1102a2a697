"""The write-ahead journal of a lab: one JSON object per line, appended and fsynced.

Every effect is preceded by a `begin` line and followed by an `end` line; the state is a fold over them (`state.py`).
Each line carries a checksum over the rest of it, so that a torn or altered line is detected. Lines of a newer format
version are refused, never guessed at.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.core.errors import StateError
from emulator.core.fs import append_line, replace_file, sync
from emulator.core.trust.opening import open_own

VERSION = 1
_SUM = "sum"
NEWER = "format "


@dataclass(frozen=True, slots=True)
class Damage:
    """A line that cannot be trusted. `line` counts from 1; `torn` is an incomplete last line (a crash)."""

    line: int
    why: str
    torn: bool


@dataclass(frozen=True, slots=True)
class JournalContents:
    """All valid entries in order, and the damage. `lines` are the entries' line numbers, from 1."""

    entries: tuple[Mapping[str, Any], ...]
    damage: tuple[Damage, ...]
    lines: tuple[int, ...] = ()


class Journal:
    """Append-only file. Safe for the threads of one process; the lab's lock keeps other processes out."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write one entry; it is on the disk when this returns.

        Raises:
            StateError: the file cannot be written (no space, read-only); the caller must not begin the effect that
                it wanted to announce.
        """
        line = _line(entry)
        try:
            with self._lock:
                self._write(line)
        except OSError as error:
            raise StateError(
                f"the journal cannot be written: {error.strerror}",
                where=str(self.path),
                fix="free space on that file system or fix its permissions, then run the command again",
            ) from error

    def _write(self, line: bytes) -> None:
        is_new = not self.path.exists()
        descriptor = open_own(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            append_line(descriptor, line)
        finally:
            os.close(descriptor)
        if is_new:
            sync(self.path.parent)

    def read(self) -> JournalContents:
        """All entries so far; a missing file is an empty journal.

        Raises:
            StateError: the journal is of a newer version or cannot be read.
        """
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return JournalContents((), ())
        except OSError as error:
            raise StateError(f"the journal cannot be read: {error.strerror}", where=str(self.path)) from error
        entries: list[Mapping[str, Any]] = []
        damage: list[Damage] = []
        numbers: list[int] = []
        lines = raw.split(b"\n")
        last = 0
        for number, line in enumerate(lines, start=1):
            if not line:
                continue
            entry, why = decode(line)
            if entry is None:
                damage.append(Damage(number, why, torn=number == len(lines)))
            else:
                entries.append(entry)
                numbers.append(number)
            last = number if entry is not None else last
        for bad in damage:
            # An older program never writes after a newer one, so a newer line followed by others is merely damaged.
            if bad.why.startswith(NEWER) and bad.line > last:
                raise StateError(
                    f"the journal is of {bad.why}, newer than this version understands ({VERSION})",
                    where=f"{self.path}:{bad.line}",
                    fix="use the version of hyperscaler that wrote it, or a newer one",
                )
        return JournalContents(tuple(entries), tuple(damage), tuple(numbers))

    def rewrite(self, entries: Iterable[Mapping[str, Any]]) -> Path:
        """Replace a damaged journal atomically and keep the damaged file for inspection; returns its path.

        Raises:
            StateError: the new journal cannot be written; the damaged one is still in place.
        """
        kept = self.path.with_name(f"{self.path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
        lines = b"".join(_line(entry) for entry in entries)
        try:
            kept.unlink(missing_ok=True)
            os.link(self.path, kept)
            replace_file(self.path, lines)
        except OSError as error:
            raise StateError(
                f"the damaged journal cannot be replaced: {error.strerror}",
                where=str(self.path),
                fix="free space on that file system or fix its permissions, then run the command again",
            ) from error
        return kept

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.read().entries)


def _line(entry: Mapping[str, Any]) -> bytes:
    return encode({"v": VERSION, "at": round(time.time(), 3), **entry})


def encode(entry: Mapping[str, Any]) -> bytes:
    """One line, checksum and newline included."""
    body = json.dumps(entry, sort_keys=True, separators=(",", ":"))
    return json.dumps({**entry, _SUM: _checksum(body)}, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> tuple[Mapping[str, Any] | None, str]:
    """The entry of a line without its checksum, or None and the reason for distrust."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None, "not JSON"
    if not isinstance(data, dict) or not isinstance(data.get("v"), int):
        return None, "not a journal entry"
    claimed = data.pop(_SUM, None)
    # The version is checked first: a newer format may have another checksum or other rules for it.
    if data["v"] > VERSION:
        same = json.dumps({**data, "v": VERSION}, sort_keys=True, separators=(",", ":"))
        flipped = claimed == _checksum(same)  # a flipped bit, not a newer program
        return None, "checksum differs" if flipped else f"{NEWER}{data['v']}"
    body = json.dumps(data, sort_keys=True, separators=(",", ":"))
    if claimed != _checksum(body):
        return None, "checksum differs"
    return data, ""


def _checksum(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]
