"""What several layers do with directories."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Make a rename, a new name or a removal in `path` survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def left_by_the_dead(directory: Path, prefix: str, ending: str) -> Iterator[Path]:
    """Entries whose names are `prefix`, the id of the process that made them, `ending` and whatever follows, and whose
    process is gone."""
    for path in directory.glob(f"{prefix}*{ending}*"):
        pid = path.name.removeprefix(prefix).partition(ending)[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            yield path
