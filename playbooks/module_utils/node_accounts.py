"""Accounts of a node: made, bounded, closed."""

from __future__ import annotations

import pwd
from collections.abc import Callable, Sequence
from typing import TypedDict

from ansible.module_utils.node_command import NodeStateError, run
from ansible.module_utils.user_end import USER_UIDS, alive, bar, end_processes, expiry
from ansible.module_utils.user_quota import NoQuotasError, Quota, ensure_quota, kernel


class User(TypedDict):
    name: str
    uid: int
    home: str | None
    shell: str | None


def ensure_user(user: User, *, check: bool) -> list[str]:
    """Create the account unless it exists; an existing one with another uid is an error, never changed."""
    name, uid = user["name"], user["uid"]
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        if not check:
            home = user["home"] or f"/home/{name}"
            shell = user["shell"] or "/bin/bash"
            ids = ["--gid", str(uid)]
            run(["groupadd", "--force", *ids, name])
            private = ["--create-home", "--home-dir", home, "--key", "HOME_MODE=0700"]
            run(["useradd", "--uid", str(uid), *ids, *private, "--shell", shell, name])
        return [f"user {name}"]
    if found.pw_uid != uid:
        raise NodeStateError(f"user {name} has uid {found.pw_uid} on this node, not {uid}")
    if expiry(name) == "1":
        if not check:
            run(["usermod", "--expiredate", "", name])
        return [f"user {name} again"]
    return []


def ensure_former(name: str, *, check: bool) -> list[str]:
    """Close this account, then end its processes. Its files stay, with a uid that no one else gets.

    What it runs is looked for each time: a run may have been cut off between the two. An account with a uid that no
    user of a lab gets is one of the system's that bears the same name, and is left alone."""
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        return []
    if uid not in USER_UIDS:
        return []
    changes = []
    if expiry(name) != "1":
        changes.append(f"ended user {name}")
    if not check:
        bar(name)
    if alive(uid):
        changes.append(f"ended what user {name} ran")
    left = [] if check else end_processes(uid)
    if left:
        raise NodeStateError(f"user {name} has no access any more, but these do not end: {', '.join(left[:20])}")
    return changes


def ensure_quotas(users: Sequence[User], quota: Quota | None, warn: Callable[[str], None], *, check: bool) -> list[str]:
    """The same limits for each of the users; a disk without quotas, of an older image, stays as it is."""
    if quota is None:
        return []
    quotactl = kernel("/")
    try:
        return [f"quota {user['name']}" for user in users if ensure_quota(user["uid"], quota, quotactl, check=check)]
    except NoQuotasError:
        warn("users can fill this node's disk: it was made from an image without quotas; make the node again")
        return []
