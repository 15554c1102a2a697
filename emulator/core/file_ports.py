"""The seam between the program and configuration files of the host; see `ports`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FileLook:
    """An ordinary file at one moment. `digest` (SHA-256) None: there is none. Times do not count in comparisons."""

    digest: str | None
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = field(default=0, compare=False)


class HostFileEditor(Protocol):
    """Writes files of the host so that they can be put back. Paths are absolute.

    Every method may raise `ConflictError` for a path that is no ordinary file, or has a symbolic link in it.
    """

    def look(self, path: str) -> FileLook: ...
    def back_up(self, path: str, look: FileLook) -> None:
        """Keep a copy of what `look` saw, on the disk when this returns."""
        ...

    def keep(self, path: str, look: FileLook) -> str:
        """Keep a copy of what `look` saw where `forget` leaves it, on the disk when this returns. Returns where."""
        ...

    def missing_parents(self, path: str) -> tuple[str, ...]: ...
    def write(self, path: str, content: str, *, mode: int = 0o644) -> None: ...
    def put_back(self, path: str, look: FileLook) -> None:
        """What `look` saw: content, mode, owner, time; or that nothing was there."""
        ...

    def tidy(self, path: str) -> None:
        """Remove what a write that was cut off has left beside the file."""
        ...

    def remove_directory(self, path: str) -> None:
        """Remove it if it is empty."""
        ...

    def forget(self) -> None:
        """Remove all copies but those to keep."""
        ...
