"""The files of authorized keys, one for each open lab, in a directory that only root may write."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType


_ENDING = ".keys"


def keys_directory(place: Path) -> Path:
    """Where they are."""
    return place / "labs"


def keys_path(place: Path, home: str, lab: str) -> Path:
    """That of one lab; labs of the same name in other homes have others."""
    return keys_directory(place) / f"{lab}-{hashlib.sha256(home.encode()).hexdigest()[:12]}{_ENDING}"


def keys_files(place: Path) -> Sequence[Path]:
    """Those of all open labs."""
    return sorted(path for path in keys_directory(place).glob(f"*{_ENDING}") if not path.is_symlink())


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

    def write(self, lines: str) -> None:
        """Put these lines in the place of all others.

        Raises:
            OSError: they cannot be written.
        """
        new = self._path.with_name(f".{self._path.name}.new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, lines.encode())
            os.fchown(descriptor, 0, self._gid)
            os.fchmod(descriptor, 0o640)
        finally:
            os.close(descriptor)
        new.replace(self._path)

    def remove(self) -> None:
        """Close the lab."""
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> KeysFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()
