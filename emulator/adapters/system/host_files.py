"""The kernel's files under a root directory: `/` on a real host, a made-up tree in tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from emulator.gpu.errors import GpuTimeoutError

# Runs in a child process: a write that the kernel never finishes (removing an mdev or unbinding a function that a guest
# holds) then costs one abandoned process and not the program. One write(2), as sysfs requires; the exit status carries
# the errno.
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
        root: the directory that stands for `/`. Text is decoded as UTF-8 with replacement.
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
            child.kill()  # has no effect in uninterruptible sleep; the child ends when the kernel releases it
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
