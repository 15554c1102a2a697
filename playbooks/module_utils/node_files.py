"""Directories and files of a node, and files that a command makes of others.

Paths are plain strings here: they come from JSON and go to lstat, rename and unlink.
"""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections.abc import Collection
from typing import TypedDict

from ansible.module_utils.node_command import NodeStateError, run
from ansible.module_utils.whole_file import write_whole

# How long to wait for another stamp of a file, and how often; the kernel's clock has ticks of up to 10 ms.
TICK_SECONDS = 0.02
TICKS = 5


class Place(TypedDict):
    path: str
    owner: str | None
    group: str | None
    mode: str | None


class Directory(Place, total=False):
    only: list[str] | None


class File(Place):
    content: str | None
    secret: str | None


class Derived(TypedDict):
    path: str
    argv: list[str]
    reads: list[str]


def wanted_ids(entry: Place) -> tuple[int, int]:
    """(uid, gid) of an entry's owner and group; root where nothing is said."""
    owner, group = entry["owner"] or "root", entry["group"] or "root"
    try:
        return pwd.getpwnam(owner).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise NodeStateError(f"{entry['path']}: no such owner or group: {error.args[0]}") from error


def differs(path: str, uid: int, gid: int, mode: int) -> bool:
    """Whether owner, group or permission bits of `path` (not followed) differ."""
    seen = os.lstat(path)
    return (seen.st_uid, seen.st_gid, seen.st_mode & 0o7777) != (uid, gid, mode)


def ensure_directory(entry: Place, *, check: bool) -> list[str]:
    path, mode = entry["path"], int(entry["mode"] or "0755", 8)
    uid, gid = wanted_ids(entry)
    if os.path.isdir(path) and not os.path.islink(path):
        if not differs(path, uid, gid, mode):
            return []
    elif os.path.lexists(path):
        raise NodeStateError(f"{path} is in the way: it is not a directory")
    elif not check:
        os.makedirs(path)
    if not check:
        os.chown(path, uid, gid)
        os.chmod(path, mode)
    return [f"directory {path}"]


def ensure_only(entry: Directory, *, check: bool) -> list[str]:
    """Remove files that nobody asked for from a directory that is all ours: keys, say, that an admin left there."""
    only = entry.get("only")
    if only is None or not os.path.isdir(entry["path"]):
        return []
    with os.scandir(entry["path"]) as entries:
        names = sorted(each.name for each in entries if not each.is_dir(follow_symlinks=False))
    changes = []
    for name in names:
        if name not in only:
            changes += ensure_absent(f"{entry['path']}/{name}", check=check)
    return changes


def ensure_absent(path: str, *, check: bool) -> list[str]:
    if not os.path.lexists(path):
        return []
    if not check:
        os.unlink(path)
    return [f"removed {path}"]


def ensure_file(entry: File, *, check: bool) -> list[str]:
    path, mode = entry["path"], int(entry["mode"] or "0644", 8)
    uid, gid = wanted_ids(entry)
    text = entry["secret"] if entry["secret"] is not None else entry["content"]
    data = (text or "").encode()
    if os.path.isfile(path) and not os.path.islink(path):
        with open(path, "rb") as stream:
            same = stream.read(len(data) + 1) == data
        if same and not differs(path, uid, gid, mode):
            return []
    if not check:
        write_whole(path, data, mode=mode, owner=(uid, gid))
    return [f"file {path}"]


def ensure_derived(entry: Derived, timeout: float, *, check: bool) -> list[str]:
    """Run the command unless what it makes is younger than all that it is made of, as make does."""
    path = entry["path"]
    if last_change([path]) > last_change(entry["reads"]):
        return []
    if not check:
        run(entry["argv"], timeout)
        for _ in range(TICKS):
            if last_change([path]) > last_change(entry["reads"]):
                break
            # The command found nothing to do and left the file alone, or both changed within one tick of the kernel's
            # clock, by which files are stamped: note when it was asked.
            time.sleep(TICK_SECONDS)
            os.utime(path)
    return [f"derived {path}"]


def last_change(paths: Collection[str]) -> float:
    """The latest ctime of those paths that exist: renames, chown and chmod count, and no one can set it back."""
    return max((os.lstat(path).st_ctime for path in paths if os.path.lexists(path)), default=0.0)
