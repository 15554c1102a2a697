"""Who runs this program: what the kernel knows, apart from what the environment claims."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

LOGIN_UID = Path("/proc/self/loginuid")
_NOT_SET = 4294967295  # (uid_t) -1: nobody logged in, such as in a service of the boot or in many containers


def login_uid(path: Path = LOGIN_UID) -> int | None:
    """The uid of the account that logged in (pam_loginuid(8)): it stays through su and sudo, and users cannot change it
    once it is set. None where it is not set, or the kernel keeps none."""
    try:
        uid = int(path.read_text())
    except (OSError, ValueError):
        return None
    return uid if 0 <= uid < _NOT_SET else None


def claimed_user(environment: Mapping[str, str] = os.environ) -> str:
    """For whom sudo says that it works, or empty. Root can put anything there."""
    return environment.get("SUDO_USER", "")[:64]


def caller_uid(path: Path = LOGIN_UID, environment: Mapping[str, str] = os.environ) -> int:
    """The uid of the person behind this process, as far as known: of the login, else sudo's word, else its own."""
    found = login_uid(path)
    if found is not None:
        return found
    claimed = environment.get("SUDO_UID", "")
    return int(claimed) if claimed.isascii() and claimed.isdigit() else os.getuid()
