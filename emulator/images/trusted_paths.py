"""Checks who controls a path: another account must not swap a file that the program writes or trusts."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from emulator.core.errors import ConflictError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def require_own(path: Path, *, fix: str) -> None:
    """Refuse a file or directory that another account (except root) can change, or can put something else in place of.

    Raises:
        ConflictError: it can; `fix` is what to do about it.
        OSError: it is not there.
    """
    path = path.absolute()
    path.stat()  # a circle of links ends here
    for parent in reversed(path.parents):
        _require_kept(parent, fix)
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        _require_owner(path, status, (0, os.geteuid()), fix)
        require_own(path.parent / path.readlink(), fix=fix)
        return
    _require_owner(path, status, (os.geteuid(),), fix)
    if status.st_mode & _OTHERS_WRITE:
        raise ConflictError("others can write to this", where=str(path), fix=fix)


def make_own_empty_directory(path: Path) -> None:
    """Make `path` and the directories above it, mode 0700; an empty directory of this user is taken.

    Raises:
        ConflictError: something else is there, or another account could put its own in the place of it.
        OSError: it cannot be made.
    """
    fix = "name a new directory, in one that only you and root can write to or in /var/tmp"
    for parent in reversed(path.parents):
        with suppress(FileExistsError):
            parent.mkdir(mode=0o755)
        parent.stat()  # a circle of links ends here
        _require_kept(parent, fix)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise _not_empty(path) from None
        _require_owner(path, status, (os.geteuid(),), fix)
        _require_empty(path)
        path.chmod(0o700)
        # Other accounts that could write to it until now may have done so after the first look.
        _require_empty(path)


def _require_kept(directory: Path, fix: str) -> None:
    """Refuse a directory, or a link to one, in which another account can rename this user's files."""
    status = directory.lstat()
    _require_owner(directory, status, (0, os.geteuid()), fix)
    if stat.S_ISLNK(status.st_mode):
        target = directory.parent / directory.readlink()
        for step in (*reversed(target.parents), target):
            _require_kept(step, fix)
    elif status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        # With the sticky bit, as in /tmp, everybody renames and removes only what is theirs.
        raise ConflictError("others can write to this directory", where=str(directory), fix=fix)


def _require_owner(path: Path, status: os.stat_result, owners: tuple[int, ...], fix: str) -> None:
    if status.st_uid not in owners:
        raise ConflictError(
            f"this belongs to another user (uid {status.st_uid}), who could put something else in its place",
            where=str(path),
            fix=fix,
        )


def _require_empty(directory: Path) -> None:
    if any(directory.iterdir()):
        raise _not_empty(directory)


def _not_empty(path: Path) -> ConflictError:
    return ConflictError(
        "this is there already and is not an empty directory", where=str(path), fix="name a new directory"
    )
