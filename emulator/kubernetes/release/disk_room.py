"""Disk space of the cache: checks it, and removes remains of killed runs."""

from __future__ import annotations

import shutil
from pathlib import Path

from emulator.core.errors import HostNotFitError

_GIB = 1024**3


def require_room(directory: Path, needed: int, purpose: str) -> None:
    """Raises: HostNotFitError when fewer than `needed` bytes are free for `directory`, which need not be there yet."""
    there = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise HostNotFitError(
            f"{purpose} needs {_amount(needed)} of disk, {_amount(free)} are free",
            where=str(directory),
            fix="free some space, or put HYPERSCALER_HOME on another file system",
        )


def _amount(size: int) -> str:
    if size < _GIB // 10:
        return f"{size / 1024**2:.0f} MiB"
    return f"{size / _GIB:.1f}".removesuffix(".0") + " GiB"


def remove_leftovers(cache: Path, pattern: str) -> None:
    """Remove directories that killed runs left in `cache`. Call it under `cache_lock`, when no one is at work there."""
    for path in cache.glob(pattern):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
