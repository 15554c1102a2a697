"""The kernel's files: of this host, or recorded on another one."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

from emulator.gpu.errors import GpuTimeoutError

# Runs in a child, so that a write which the kernel never finishes (removing an mdev or unbinding a function that a
# guest holds) costs one abandoned process and not the program. sysfs expects one write(2); the exit status carries the
# errno.
_WRITER = """
import os, sys
try:
    handle = os.open(sys.argv[1], os.O_WRONLY | os.O_CLOEXEC)
    os.write(handle, sys.argv[2].encode())
    os.close(handle)
except OSError as error:
    sys.exit(min(error.errno or 255, 255))
"""


class HostFiles:
    """`FileAccess` over real files.

    Args:
        root: the directory in the place of `/`. Text is decoded as UTF-8 with replacement.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def _path(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def read(self, path: str) -> str:
        return self._path(path).read_text(encoding="utf-8", errors="replace")

    def write(self, path: str, text: str, *, timeout: float = 10.0) -> None:
        target = self._path(path)
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WRITER, str(target), text],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            status = child.wait(timeout)
        except subprocess.TimeoutExpired:
            child.kill()  # has no effect in uninterruptible sleep; the child ends when the kernel lets it go
            raise GpuTimeoutError(
                f"the kernel did not finish the write of {text.strip()!r} within {timeout:g} seconds",
                where=path,
                fix="the device is still in use: stop the domain or process that holds it; the write "
                "takes effect as soon as it is released",
            ) from None
        if status:
            raise OSError(status, os.strerror(status), path)

    def listdir(self, path: str) -> tuple[str, ...]:
        return tuple(sorted(os.listdir(self._path(path))))  # noqa: PTH208 - names are wanted, not paths

    def readlink(self, path: str) -> str:
        return str(self._path(path).readlink())

    def exists(self, path: str) -> bool:
        return os.path.lexists(self._path(path))

    def probe_open(self, path: str) -> None:
        handle = os.open(self._path(path), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        os.close(handle)


# The largest file that a recorded host is read for is dpkg's status, of some MiB.
_MOST_BYTES = 64 * 1024 * 1024
_MOST_LINKS = 40


class RecordedFiles(HostFiles):
    """`FileAccess` to a host that was recorded below `root`. It never leaves `root`, whatever the record holds.

    Symbolic links lead to where they led on that host, with `root` in the place of its `/`. A copy that could not keep
    links has files in their place that hold the target as text: these are links, too.
    """

    def read(self, path: str) -> str:
        descriptor = os.open(self._below(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            # A device or a pipe in the place of a file would keep us waiting.
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "not an ordinary file", path)
            return file.read(_MOST_BYTES).decode("utf-8", "replace")

    def listdir(self, path: str) -> tuple[str, ...]:
        return tuple(sorted(os.listdir(self._below(path))))  # noqa: PTH208 - names are wanted, not paths

    def readlink(self, path: str) -> str:
        place = self._below(path, follow_last=False)
        if place.is_symlink():
            return str(place.readlink())
        target = self.read(path).strip()
        if not target or not target.isprintable():
            raise OSError(errno.EINVAL, "not a symbolic link", path)
        return target

    def exists(self, path: str) -> bool:
        try:
            return os.path.lexists(self._below(path, follow_last=False))
        except OSError:
            return False

    def _below(self, path: str, *, follow_last: bool = True) -> Path:
        """The place below `root` that the recorded host meant by `path`."""
        # Text and no `Path`s: a check of a host looks up thousands of names, and this is most of its time.
        root = str(self._root.absolute()).rstrip("/")
        place, links = root, 0
        parts = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        while parts:
            part = parts.pop()
            if part == "..":
                place = place if place == root else os.path.dirname(place)  # noqa: PTH120
                continue
            place = f"{place}/{part}"
            if not os.path.islink(place) or (not parts and not follow_last):  # noqa: PTH114
                continue
            if (links := links + 1) > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(place)  # noqa: PTH115
            place = root if target.startswith("/") else os.path.dirname(place)  # noqa: PTH120
            parts += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        return Path(place or "/")
