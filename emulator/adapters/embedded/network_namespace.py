"""Named network namespaces with an ownership mark inside."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from emulator.core.errors import ConflictError, HyperscalerError
from emulator.core.locking import acquire
from emulator.core.ports import ProcessRunner

NETNS_DIRECTORY = Path("/run/netns")

# Our volatile notes, which vanish with a reboot like the mounts.
_NOTES = Path("/run/hyperscaler")
_MOUNT_NOTE = _NOTES / "netns-mount"

_TIMEOUT = 30.0

# Seconds to wait for another lab that creates or removes a namespace, which takes two or three commands.
_LOCK_SECONDS = 120.0


class NetworkNamespace:
    """The network namespace `name`, which belongs to `owner` (any text, such as a directory).

    The mark is the alias of its loopback interface. It is part of the namespace, so it lives exactly as long, and it is
    found without any file.
    """

    def __init__(self, name: str, owner: str, runner: ProcessRunner) -> None:
        if not name or "/" in name or name in (".", ".."):
            raise HyperscalerError(f"{name!r} cannot be the name of a network namespace")
        self.name = name
        self.path = NETNS_DIRECTORY / name
        self._mark = "hyperscaler " + hashlib.sha256(owner.encode()).hexdigest()
        self._runner = runner

    def inode(self) -> int | None:
        """The namespace's identity; None if there is no namespace of this name."""
        with contextlib.suppress(FileNotFoundError):
            found = self.path.stat()
            # A crashed `ip netns add` leaves a plain file, which is not a namespace.
            if found.st_dev != NETNS_DIRECTORY.stat().st_dev:
                return found.st_ino
        return None

    def is_ours(self) -> bool:
        """Whether the namespace exists and has our mark."""
        if self.inode() is None:
            return False
        done = self._ip("-n", self.name, "-json", "link", "show", "lo", check=False)
        with contextlib.suppress(ValueError, LookupError, TypeError):
            return bool(json.loads(done)[0]["ifalias"] == self._mark)
        return False

    def ensure(self, *, adopt: bool) -> None:
        """Create or complete it. `adopt`: an unmarked one counts as ours, from an interrupted start.

        Raises:
            ConflictError: a foreign namespace has the name.
        """
        if self.inode() is None:
            with shared_notes():
                self.path.unlink(missing_ok=True)
                self._note_mount()
                self._ip("netns", "add", self.name)
        elif not self.is_ours() and not adopt:
            raise ConflictError(
                f"a foreign network namespace {self.name} exists",
                where=str(self.path),
                fix=f"if it is not needed: ip netns del {self.name}",
            )
        self._ip("-n", self.name, "link", "set", "lo", "alias", self._mark)
        self._ip("-n", self.name, "link", "set", "lo", "up")

    def attach(self, pid: int) -> None:
        """Attach the name again to the namespace of the process or thread `pid`."""
        with shared_notes():
            self._remove_name()
            self._note_mount()
            self._ip("netns", "attach", self.name, str(pid))

    def delete(self) -> None:
        """Remove the name; the namespace ends with its last process. Nothing happens if it is absent."""
        with shared_notes():
            self._remove_name()
            self._drop_mount()

    def _remove_name(self) -> None:
        if self.inode() is not None:
            self._ip("netns", "del", self.name)
        self.path.unlink(missing_ok=True)

    def _ip(self, *words: str, check: bool = True) -> str:
        return self._runner.run(["ip", *words], timeout=_TIMEOUT, check=check).stdout

    def _note_mount(self) -> None:
        """Record that we caused the mount of /run/netns onto itself, which the first `ip netns add` makes."""
        if not NETNS_DIRECTORY.exists() or not _is_mount(NETNS_DIRECTORY):
            _MOUNT_NOTE.touch()

    def _drop_mount(self) -> None:
        """Undo that mount after the last namespace. The kernel refuses while a namespace is mounted, so nothing is
        lost."""
        if _MOUNT_NOTE.exists() and NETNS_DIRECTORY.is_dir() and not any(NETNS_DIRECTORY.iterdir()):
            done = self._runner.run(["umount", NETNS_DIRECTORY], timeout=_TIMEOUT, check=False)
            if done.returncode == 0:
                with contextlib.suppress(OSError):  # not empty below the mount: other programs use it
                    NETNS_DIRECTORY.rmdir()
                _MOUNT_NOTE.unlink(missing_ok=True)


@contextlib.contextmanager
def shared_notes() -> Iterator[Path]:
    """The directory of volatile notes (0700), locked for this process while the block runs; removed when empty.

    It guards state that the namespaces of all labs share: the mount of /run/netns, which the first one causes and the
    last one removes, and the directory itself. The directory itself is locked, so that no lock file has to stay.

    Raises:
        ConflictError: another process kept it for two minutes.
    """
    with contextlib.ExitStack() as stack:
        while True:
            with contextlib.suppress(FileExistsError):
                _NOTES.mkdir(mode=0o700)
            try:
                descriptor = os.open(_NOTES, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            with contextlib.ExitStack() as opened:
                opened.callback(os.close, descriptor)
                acquire(descriptor, _NOTES, seconds=_LOCK_SECONDS)
                if _is_still(descriptor, _NOTES):  # otherwise its last holder has removed it
                    stack.push(opened.pop_all())
                    break
        try:
            yield _NOTES
        finally:
            with contextlib.suppress(OSError):  # not empty
                _NOTES.rmdir()


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _is_mount(path: Path) -> bool:
    # Not os.path.ismount: a directory bound onto itself stays on the same device.
    lines = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    return any(line.split()[4] == os.fspath(path) for line in lines)
