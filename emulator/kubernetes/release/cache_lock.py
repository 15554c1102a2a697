"""One process at a time makes something in the cache of Kubernetes releases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from emulator.core.locking import acquire
from emulator.core.trust.opening import open_own

# Step and line of output; a step begins with an empty line.
Progress = Callable[[str, str], None]

_LOCK_SECONDS = 4 * 3600.0
"""How long one may wait for another's build: four hours, on the slowest of hosts."""


@contextmanager
def cache_lock(cache: Path, progress: Progress) -> Iterator[None]:
    """Held while a release is built, fetched or unpacked and while the files of a node are made of it: two labs that
    want the same get it from the one that came first. Not to be taken twice by one process.

    Raises:
        ConflictError: another process held it for hours; names it.
        StateError: something else is in the place of the lock's file.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / "lock"
    descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        acquire(
            descriptor,
            path,
            seconds=_LOCK_SECONDS,
            on_wait=lambda who: progress("wait for another build", who),
        )
        yield
    finally:
        os.close(descriptor)
