"""A disk that keeps only what was fsynced, and a disk that is full.

Both watch the files that the program itself writes below the home directory. Those of libvirtd, qemu-img, ssh's
guests and simulated GPUs are others' business and are there at once; the key pair that ssh-keygen makes is the
program's, since it is the program that gives it its name.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.support.simulated_world import Snapshot

_OTHERS = ("hypervisor", "disks", "console", "gpu")
"""Below a lab: written by libvirtd (which makes its directory, too), qemu-img, guests and the simulated GPUs."""


def is_ours(root: Path, path: Path) -> bool:
    """Whether the program writes this file or directory (of a simulated host in `root`) itself."""
    try:
        parts = path.relative_to(root).parts
    except ValueError:
        return False
    if parts[:1] != ("home",) or parts[1:2] == ("images",):
        return False
    below = parts[3:] if parts[1:2] == ("labs",) else ()
    return not (below and (below[0] in _OTHERS[:1] or (below[0] in _OTHERS and len(below) > 1)))


class LossyDisk:
    """What of the files in `root` has reached the disk.

    Everything that is there at the beginning has. Contents count from the fsync of their file, names (and that a
    name is gone) from the fsync of their directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._content: dict[int, tuple[int, bytes]] = {}
        self._names: dict[int, dict[str, tuple[int, int]]] = {}
        self._pins: dict[int, int] = {}  # an open descriptor keeps an inode's number from being given out again
        for path in (root, *root.rglob("*")):
            self._settle(path)
        self.synced = 0

    @contextmanager
    def watched(self) -> Iterator[LossyDisk]:
        try:
            with patch("os.fsync", self._fsync):
                yield self
        finally:
            for descriptor in self._pins.values():
                os.close(descriptor)

    def _fsync(self, descriptor: int) -> None:
        self.synced += 1
        self._settle(Path(f"/proc/self/fd/{descriptor}").readlink())

    def _settle(self, path: Path) -> None:
        status = path.stat()
        if status.st_ino not in self._pins:
            self._pins[status.st_ino] = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if stat.S_ISDIR(status.st_mode):
            self._names[status.st_ino] = {
                entry.name: (entry.inode(), entry.stat().st_mode) for entry in os.scandir(path)
            }
        else:
            self._content[status.st_ino] = (status.st_mode, path.read_bytes())

    def lost(self) -> Snapshot:
        """The machine after the power is back, with nothing that was not fsynced."""
        kept: Snapshot = {}
        self._survivors(self.root, self.root.stat().st_ino, kept)
        return kept

    def _survivors(self, path: Path, inode: int, kept: Snapshot) -> None:
        names = dict(self._names.get(inode, {}))
        now = {entry.name: entry for entry in os.scandir(path)} if path.is_dir() else {}
        for name in {*names, *now}:
            if not is_ours(self.root, path / name):
                names.pop(name, None)
                if name in now:
                    names[name] = (now[name].inode(), now[name].stat().st_mode)
        for name, (number, mode) in sorted(names.items()):
            below = path / name
            key = str(below.relative_to(self.root))
            if stat.S_ISDIR(mode):
                kept[key] = (mode, None)
                self._survivors(below, number, kept)
            elif is_ours(self.root, below):
                kept[key] = self._content.get(number, (mode, b""))
            else:
                kept[key] = (mode, below.read_bytes())

    def emptied(self, now: Snapshot) -> Snapshot:
        """The other way in which disks lose: all names are there, but of the contents only what was fsynced."""
        kept = dict(now)
        for name, (mode, content) in now.items():
            path = self.root / name
            if content is not None and is_ours(self.root, path):
                kept[name] = (mode, self._content.get(path.stat().st_ino, (0, b""))[1])
        return kept


def _place(first: int | str | Path, directory: int | None) -> Path:
    """What a call is about: by its descriptor, or by its name, which may be relative to a directory's descriptor."""
    if isinstance(first, int):
        return Path(f"/proc/self/fd/{first}").readlink()
    return Path(first) if directory is None else Path(f"/proc/self/fd/{directory}").readlink() / first


class FullDisk:
    """From its n-th write on there is no space for what the program writes; `whole` brings the space back before
    the next try, else the disk stays full."""

    def __init__(self, root: Path, number: int, *, stays_full: bool) -> None:
        self._root = root
        self.number = number
        self._stays_full = stays_full
        self.count = 0
        self.refused: list[str] = []

    @contextmanager
    def installed(self) -> Iterator[FullDisk]:
        with ExitStack() as stack:
            for name in ("open", "write", "pwrite", "fsync", "mkdir", "link", "replace", "rename"):
                stack.enter_context(patch(f"os.{name}", self._guarded(name, getattr(os, name))))
            yield self

    def _guarded(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(first: Any, *rest: Any, **options: Any) -> Any:
            if name == "open" and not rest[0] & os.O_CREAT:
                return call(first, *rest, **options)
            place = _place(first, options.get("dir_fd", options.get("src_dir_fd")))
            if name == "open" and place.exists():
                return call(first, *rest, **options)  # nothing new is needed
            if is_ours(self._root, place):
                self.count += 1
                if self.count == self.number or (self._stays_full and self.count > self.number):
                    self.refused.append(f"{name} {place.name}")
                    if name == "write":
                        call(first, rest[0][: len(rest[0]) // 2])  # what a nearly full disk does
                        return len(rest[0]) // 2
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))
            return call(first, *rest, **options)

        return guarded
