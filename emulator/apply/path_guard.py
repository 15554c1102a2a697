"""Whether a recorded path is in the directory of the lab that records it."""

from __future__ import annotations

from pathlib import Path

from emulator.core.errors import ConflictError


def is_below(root: Path, path: Path) -> bool:
    """Whether `path` lies in the directory `root`, under whatever name: a home can be reached by several.

    A link below `root` counts as being there: of a link only the link itself is ever removed.
    """
    if ".." in path.parts or not path.is_absolute():
        return False
    if path != root and path.is_relative_to(root):
        return True
    real = root.resolve()
    return any(parent.resolve() == real for parent in path.parents)


def require_below(root: Path, path: Path, resource_id: str) -> None:
    """For what is about to remove `path`: a record can be a copy of another lab's, whose files are not to be touched.

    Raises:
        ConflictError: it is not in the lab's directory.
    """
    if not is_below(root, path):
        raise ConflictError(
            f"{path} is on record, but not in the lab's directory {root}; it was left alone",
            where=resource_id,
            fix="find out whose it is; the lab's journal may be a copy of another lab's",
        )
