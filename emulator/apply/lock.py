"""Exclusive locks between processes: one per lab, and one for what labs share on the host.

`flock` on a file that may outlive the holder: the kernel releases it when the holder dies, however it dies, so a stale
lock cannot block. The file names the holder for the message that a waiting process prints. Where a file goes with what
it guards, a process that waited for it would hold the lock of a removed file, and looks whether it is still in place.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from emulator.core.errors import InterruptedRunError, StateError
from emulator.core.locking import acquire, holder, name_of
from emulator.core.paths import Home
from emulator.core.stop import StopFlag
from emulator.core.trust.identity import ProcessIdentity
from emulator.core.trust.opening import open_own

# Locks that labs of all homes share. Not in /run/lock, which is world-writable: a user who creates the directory first
# could lock root out or take the locks.
HOST_LOCKS = Path("/run/hyperscaler/locks")


@contextmanager
def exclusive_lock(
    path: Path,
    *,
    purpose: str,
    wait_seconds: float = 0.0,
    stop: StopFlag | None = None,
    goes: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold the lock at `path` while the block runs.

    Args:
        path: of its file.
        purpose: what the lock guards and which command holds it, for the message of a waiting process.
        wait_seconds: seconds to wait for another holder; 0 gives up at once.
        stop: ends the wait when it is set.
        goes: whether the file is to go, asked at the end of the block: there is nothing left that it guards.

    Raises:
        ConflictError: another process holds it; names process id, host, start time and command.
        InterruptedRunError: a stop was requested during the wait.
    """
    descriptor = _held(path, wait_seconds, stop)
    try:
        me = {
            **ProcessIdentity.of(os.getpid()).to_json(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "purpose": purpose,
        }
        with suppress(OSError):  # on a full disk the lock is held, but without its holder's name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(me).encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)
            if goes():
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _held(path: Path, seconds: float, stop: StopFlag | None) -> int:
    """A descriptor of the file that is at `path` once its lock is held."""
    while True:
        descriptor = _open(path)
        try:
            if not acquire(descriptor, path, seconds=seconds, pause=stop.wait if stop else None):
                raise InterruptedRunError(
                    f"stopped on request while waiting for {holder(descriptor, path)}",
                    where=str(path),
                    fix="run the same command again",
                )
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _open(path: Path) -> int:
    try:
        if path.parent == HOST_LOCKS:
            _make_host_locks()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open_own(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise StateError(
            f"the lock file cannot be opened: {error.strerror}",
            where=str(path),
            fix="run as the user that owns this directory (root for the default one), or set HYPERSCALER_HOME",
        ) from error


def _make_host_locks() -> None:
    """Create the directory; refuse one that others own or may write to, itself or any directory above it."""
    while True:
        try:
            for directory in (HOST_LOCKS.parent, HOST_LOCKS):
                with suppress(FileExistsError):
                    directory.mkdir(mode=0o700)
                _require_own(directory)
            return
        except FileNotFoundError:
            # The outer directory is removed with the last namespace if it is empty (`network_namespace.py`).
            if not HOST_LOCKS.parent.parent.is_dir():
                raise


def _require_own(directory: Path) -> None:
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise StateError(
            "users other than root can write to the directory of the host's locks",
            where=str(directory),
            fix=f"find out who made it and remove it (rm -r {directory})",
        )


def _lives(text: str) -> bool:
    """Whether the process that a lock file names still lives."""
    try:
        process = ProcessIdentity.read(json.loads(text))
    except (ValueError, AttributeError, RecursionError):
        return False
    return process is not None and process.lives()


def holder_of(path: Path) -> str:
    """The present holder of the lock, or an empty string. Never takes the lock, so it cannot get in the way.

    A holder removes its name before it releases the lock, so the name of a living process is the answer. `/proc/locks`
    serves only for holders in another pid namespace, by device and inode: on btrfs and overlay file systems its device
    number differs from the file's.
    """
    try:
        status = path.stat()
        text = path.read_text(errors="replace")
        locks = Path("/proc/locks").read_text()
    except OSError:
        return ""
    if _lives(text):
        return name_of(text)
    major, minor = os.major(status.st_dev), os.minor(status.st_dev)
    if f" {major:02x}:{minor:02x}:{status.st_ino} " not in locks or not text:
        return ""
    return name_of(text)


def host_locks(home: Home) -> Path:
    """Directory of the locks around everything that labs share: one for all of root's homes.

    The homes of other users share no hypervisor and no GPU with it.
    """
    return HOST_LOCKS if os.geteuid() == 0 else home.host_locks
