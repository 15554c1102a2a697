"""The port to the host's configuration files; see `ports`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FileLook:
    """An ordinary file at one moment. `digest` is its SHA-256, None if there is no file. Times are not compared."""

    digest: str | None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = field(default=0, compare=False)


class HostFileEditor(Protocol):
    """Writes host files in a way that can be undone. Paths are absolute.

    Every method may raise `ConflictError` for a path that is not an ordinary file or contains a symbolic link.
    """

    def look(self, path: str) -> FileLook: ...
    def back_up(self, path: str, look: FileLook) -> None:
        """Keep a copy of the file that `look` saw; it is on the disk when this returns."""
        ...

    def keep(self, path: str, look: FileLook) -> str:
        """Keep a copy that `forget` does not remove; it is on the disk when this returns. Returns its path."""
        ...

    def missing_parents(self, path: str) -> tuple[str, ...]: ...
    def write(self, path: str, content: str, *, mode: int = 0o644) -> None: ...
    def put_back(self, path: str, look: FileLook) -> None:
        """Restore the state that `look` saw: content, mode, owner and time, or absence."""
        ...

    def tidy(self, path: str) -> None:
        """Remove temporary files that an interrupted write left next to the file."""
        ...

    def remove_directory(self, path: str) -> None:
        """Remove the directory if it is empty."""
        ...

    def forget(self) -> None:
        """Remove all copies except the ones to keep."""
        ...
