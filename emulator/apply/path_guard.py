"""Checks that a recorded path lies in the directory of the lab that records it."""

from __future__ import annotations

from pathlib import Path

from emulator.core.errors import ConflictError


def is_below(root: Path, path: Path) -> bool:
    """Whether `path` lies in the directory `root`, also when a home is reached by several paths.

    A link below `root` counts as lying there, because removing it removes the link only.
    """
    if ".." in path.parts or not path.is_absolute():
        return False
    if path != root and path.is_relative_to(root):
        return True
    real = root.resolve()
    return any(parent.resolve() == real for parent in path.parents)


def require_below(root: Path, path: Path, resource_id: str) -> None:
    """Refuse to remove a path outside the lab's directory: its record may be a copy of another lab's.

    Raises:
        ConflictError: the path is not in the lab's directory.
    """
    if not is_below(root, path):
        raise ConflictError(
            f"{path} is on record, but not in the lab's directory {root}; it was left alone",
            where=resource_id,
            fix="find out whose it is; the lab's journal may be a copy of another lab's",
        )
