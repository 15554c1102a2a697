"""Opens directories and files where other accounts can write, by descriptor: what was looked at is what is used."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from emulator.core.errors import StateError
from emulator.core.trust.owners import root_ids, user_of

_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MOST_LINKS = 40
"""As many as the kernel follows (path_resolution(7))."""


def open_directory(path: Path) -> int:
    """A descriptor of a directory, for files that are made in it. Root follows no link of another account, at no step
    of the way: it could lead anywhere, and elsewhere a moment later.

    Raises:
        StateError: a link on the way belongs to another account.
        OSError: there is no such directory, or it cannot be read.
    """
    if os.geteuid() != 0:
        return os.open(path, _DIRECTORY)
    here, links = os.open("/", _PATH | os.O_DIRECTORY), 0
    ahead = list(reversed(path.absolute().parts[1:]))
    try:
        while ahead:
            step = _step(here, ahead.pop())
            status = os.fstat(step)
            if stat.S_ISLNK(status.st_mode):
                try:
                    links += 1
                    target = _target(step, status, path, links)
                finally:
                    os.close(step)
                ahead += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                if not target.is_absolute():
                    continue
                step = os.open("/", _PATH | os.O_DIRECTORY)
            os.close(here)
            here = step
        return os.open(".", _DIRECTORY, dir_fd=here)
    finally:
        os.close(here)


def _step(here: int, name: str) -> int:
    """A descriptor of a directory, or of a link; another file is no step of a way."""
    try:
        return os.open(name, _PATH | os.O_DIRECTORY, dir_fd=here)  # only so does an automount mount what belongs there
    except NotADirectoryError:
        step = os.open(name, _PATH, dir_fd=here)
        if stat.S_ISLNK(os.fstat(step).st_mode):
            return step
        os.close(step)
        raise


def _target(link: int, status: os.stat_result, path: Path, count: int) -> Path:
    if status.st_uid not in root_ids():
        raise StateError(
            f"a symbolic link there belongs to another user ({user_of(status.st_uid)}), who could turn it anywhere",
            where=str(path),
            fix="name the place itself, without that link",
        )
    if count > _MOST_LINKS:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return Path(os.readlink("", dir_fd=link))


def open_own(path: Path, flags: int, *, mode: int = 0o600) -> int:
    """Open a file that is kept open for changes in place (a lock, a journal, a log), or make it: a regular one of this
    account's or root's own, with this name alone. No link is followed, and opening a pipe does not block.

    Args:
        path: of the file.
        flags: of `os.open`; no truncation, since it would come before the look.
        mode: of a new file.

    Raises:
        StateError: something else is in its place.
        OSError: it cannot be opened.
    """
    directory = open_directory(path.parent)
    try:
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path.name, flags, mode, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _planted(path, "it is a symbolic link") from error
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(directory)
    try:
        _require_own(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_own(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _planted(path, "it is no regular file")
    if status.st_uid not in root_ids() and status.st_uid != os.geteuid():
        raise _planted(path, f"it belongs to another user ({user_of(status.st_uid)})")
    if status.st_nlink > 1:
        raise _planted(path, "it has another name, too (a hard link)")


def _planted(path: Path, why: str) -> StateError:
    return StateError(
        f"not a file of hyperscaler's own: {why}; it is left alone",
        where=str(path),
        fix="find out who put it there and move it away, then run the command again",
    )
