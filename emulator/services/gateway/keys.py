"""The files of authorized keys, one for each open lab, in a directory that only root may write.

A lab's file is there as long as the process that holds its lock. What a killed one has left is swept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from emulator.core.errors import ServiceError
from emulator.core.fs import replace_file

_KEYS, _LOCK = ".keys", ".lock"


def keys_directory(place: Path) -> Path:
    """Where they are."""
    return place / "labs"


def keys_path(place: Path, home: str, lab: str) -> Path:
    """That of one lab; labs of the same name in other homes have others."""
    return keys_directory(place) / f"{lab}-{hashlib.sha256(home.encode()).hexdigest()[:12]}{_KEYS}"


def keys_files(place: Path) -> Sequence[Path]:
    """Those of all open labs."""
    return sorted(path for path in keys_directory(place).glob(f"*{_KEYS}") if not path.is_symlink())


def sweep(place: Path) -> None:
    """Remove the files of labs whose process was killed."""
    for path in keys_files(place):
        with contextlib.suppress(BlockingIOError):
            lock = _locked(path.with_suffix(_LOCK))
            path.unlink(missing_ok=True)
            path.with_suffix(_LOCK).unlink(missing_ok=True)
            os.close(lock)


class KeysFile:
    """The file of one lab, for as long as the block runs.

    Args:
        place: of the gateway.
        home: `Home.id` of the lab's home.
        lab: its name.
        gid: group that may read it.
    """

    def __init__(self, place: Path, home: str, lab: str, gid: int) -> None:
        self._path, self._gid = keys_path(place, home, lab), gid
        self._lock = -1

    def write(self, lines: str) -> None:
        """Put these lines in the place of all others.

        Raises:
            OSError: they cannot be written.
        """
        replace_file(self._path, lines.encode(), mode=0o640, owner=(0, self._gid))

    def __enter__(self) -> KeysFile:
        try:
            self._lock = _locked(self._path.with_suffix(_LOCK))
        except BlockingIOError:
            raise ServiceError("another process keeps this lab open", where=str(self._path)) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)
        self._path.with_suffix(_LOCK).unlink(missing_ok=True)
        os.close(self._lock)


def _locked(path: Path) -> int:
    """A descriptor of the file, which holds its lock.

    Raises:
        BlockingIOError: another process does, or it was removed in between.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.lstat()):
            raise BlockingIOError
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
