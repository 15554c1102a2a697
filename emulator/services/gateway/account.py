"""Becoming the gateway's account for good, and going into a network namespace."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from emulator.adapters.embedded.entry import enter_network
from emulator.core.errors import ServiceError

_NETNS = Path("/run/netns")


def account_of(name: str) -> pwd.struct_passwd:
    """The account.

    Raises:
        ServiceError: there is none, or it is root's.
    """
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        found = None
    if found is None or found.pw_uid == 0:
        raise ServiceError(
            "the host's gateway is not set up", where=f"account {name}", fix="hyperscaler host enable-gateway"
        )
    return found


def become(account: pwd.struct_passwd) -> None:
    """Give up root in all threads, with every capability; there is no way back."""
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)


def enter(namespace: str) -> None:
    """Let this thread join a network namespace by name.

    Raises:
        ServiceError: there is none.
    """
    try:
        enter_network(str(_NETNS / namespace))
    except OSError as error:
        raise ServiceError(
            f"the network namespace cannot be entered: {error.strerror}", where=str(_NETNS / namespace)
        ) from error


def identity(namespace: str) -> tuple[int, int]:
    """Which namespace has the name now; zeros without one."""
    try:
        found = (_NETNS / namespace).stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_dev, found.st_ino


def require_roots_directory(path: Path) -> None:
    """Refuse a directory that others than root could have made or could fill.

    Raises:
        ServiceError: says which.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        raise ServiceError(
            "the host's gateway is off", where=str(path), fix="hyperscaler host enable-gateway"
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise ServiceError("others than root can write what the gateway reads", where=str(path), fix=f"ls -ld {path}")
