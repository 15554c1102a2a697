"""What a private libvirtd found out about this host's QEMU, kept for the next one.

libvirt runs each QEMU a few times to learn what it can do, which takes about eight seconds on two cores, and writes it
to its cache directory. A private libvirtd has a cache of its own that goes with its lab. libvirt itself decides what an
entry is worth: each holds the times of change of QEMU and libvirtd and the versions of kernel and microcode that it is
true for, and one that is not true any more, or damaged, is made anew (virQEMUCapsIsValid).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path

from emulator.core.fs import replace_file

# Below libvirt's cache directory, virQEMUCapsCacheNew; files are named by the SHA-256 of the emulator's path.
_PLACE = Path("qemu/capabilities")
_NAME = re.compile(r"[0-9a-f]{64}\.xml")
# One has about 160 KiB.
_LIMIT = 4 << 20


class QemuCapabilities:
    """A directory of such entries, for all labs of a home. What goes wrong in here costs time and nothing else, so that
    nothing is raised for it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def give(self, cache: Path) -> None:
        """Lay what is known into the cache directory of a libvirtd that is about to start."""
        _copy(self._directory, cache / _PLACE)

    def keep(self, cache: Path) -> None:
        """Take over what a libvirtd that has ended left in its cache directory."""
        _copy(cache / _PLACE, self._directory)


def _copy(source: Path, target: Path) -> None:
    """Copy entries that differ, each whole or not at all."""
    with contextlib.suppress(OSError):
        names = [path.name for path in source.iterdir() if _NAME.fullmatch(path.name)]
        if names:
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            content = _read(source / name)
            if content and content != _read(target / name):
                replace_file(target / name, content)


def _read(path: Path) -> bytes:
    """Content of a regular file; nothing for what is none, is missing or is far too large."""
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
