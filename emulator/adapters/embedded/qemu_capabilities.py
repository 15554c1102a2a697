"""Keeps one embedded libvirtd's cache of QEMU capabilities for the next one.

libvirt runs each QEMU a few times to learn its capabilities, which takes about eight seconds on two cores, and stores
them in its cache directory. An embedded libvirtd has its own cache, which is removed with its lab. libvirt itself
checks each entry: it holds the modification times of QEMU and libvirtd and the versions of kernel and microcode that it
is valid for, and libvirt replaces an outdated or damaged one (virQEMUCapsIsValid).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from emulator.core.errors import StateError
from emulator.core.fs import replace_file

# Below libvirt's cache directory (virQEMUCapsCacheNew); files are named by the SHA-256 of the emulator's path.
_PLACE = Path("qemu/capabilities")
_NAME = re.compile(r"[0-9a-f]{64}\.xml")
# One entry has about 160 KiB.
_LIMIT = 4 << 20


class QemuCapabilities:
    """A directory of such entries for all labs of a home. Failures cost only time, so none is raised."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def give(self, cache: Path) -> None:
        """Copy the known entries into the cache directory of a libvirtd that is about to start."""
        _copy(self._directory, cache / _PLACE)

    def keep(self, cache: Path) -> None:
        """Copy the entries that an ended libvirtd left in its cache directory."""
        _copy(cache / _PLACE, self._directory)


def _copy(source: Path, target: Path) -> None:
    """Copy entries that differ, each one atomically."""
    with contextlib.suppress(OSError, StateError):
        names = [path.name for path in source.iterdir() if _NAME.fullmatch(path.name)]
        if names:
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            content = _read(source / name)
            if content and content != _read(target / name):
                replace_file(target / name, content)


def _read(path: Path) -> bytes:
    """Content of a regular file; empty if it is not one, is missing or is far too large."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size > _LIMIT:
        os.close(descriptor)
        return b""
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read()
