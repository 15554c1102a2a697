"""Checks who controls a path: another account must not swap a file that the program writes, runs or believes."""

from __future__ import annotations

import functools
import os
import pwd
import shlex
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import ConflictError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_MOST_NAMED = 5


@dataclass(frozen=True, slots=True)
class Exposed:
    """A file or directory that another account controls; `why` is that in words, `uid` whose it is if it is the owner
    who is another."""

    path: Path
    why: str
    uid: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


@functools.cache
def root_ids() -> frozenset[int]:
    """Whose files are root's. In a user namespace, where the files of the real root belong to the overflow id
    (user_namespaces(7)), that one, too: this process can do no more there than the user who made the namespace."""
    mapping = Path("/proc/self/uid_map").read_text().split()
    if mapping == ["0", "0", "4294967295"]:
        return frozenset({0})
    return frozenset({0, int(Path("/proc/sys/kernel/overflowuid").read_text())})


def user_of(uid: int) -> str:
    """`mira, uid 1000`, or `uid 1000` of an account without a name."""
    try:
        return f"{pwd.getpwuid(uid).pw_name}, uid {uid}"
    except KeyError:
        return f"uid {uid}"


def require_own(path: Path, *, fix: str) -> None:
    """Refuse a file or directory that is not this account's, or that another one (except root) can change or can put
    something else in place of.

    Raises:
        ConflictError: it can; `fix` is what to do about it.
        OSError: it is not there.
    """
    _refuse_first(_on_way(path.absolute(), (*root_ids(), os.geteuid()), (os.geteuid(),)), fix)


def exposed(path: Path) -> Exposed | None:
    """The first step to a file, or the file itself, that accounts other than root and this one control; None if they
    control nothing of it.

    Raises:
        OSError: it is not there.
    """
    owners = (*root_ids(), os.geteuid())
    return next(_on_way(path.absolute(), owners, owners), None)


def require_roots(path: Path, *, what: str) -> None:
    """Refuse a directory in which another account could have put anything, before root works in it; as much of it as is
    there. Users who are not root may work where they may write.

    Raises:
        ConflictError: it says who owns what.
    """
    if os.geteuid() != 0:
        return
    there = next(step for step in (path, *path.parents) if os.path.lexists(step))
    for found in _on_way(there, root_ids(), root_ids()):
        raise ConflictError(
            f"root does not use a {what} that others control: {found}",
            where=str(path),
            fix=f"name another directory with HYPERSCALER_HOME, run this as that user, or, after a look at all that is "
            f"in it, give it to root: chown -R root:root {shlex.quote(str(found.path))}",
        )


def exposed_to_others(paths: Iterable[Path], trees: Iterable[Path]) -> tuple[Exposed, ...]:
    """What accounts other than root could change of `paths` and of the way to them, and of everything below `trees`;
    links are followed. What is not there is left out.

    Returns:
        One for each place, and for a tree at most the first five.
    """
    found: dict[Path, Exposed] = {}
    trees = tuple(trees)
    for path in (*paths, *trees):
        if os.path.lexists(path):
            found |= {each.path: each for each in _on_way(path.absolute(), root_ids(), root_ids())}
    for tree in dict.fromkeys(tree.resolve() for tree in trees if tree.is_dir()):
        for number, each in enumerate(_below(tree, root_ids())):
            if number == _MOST_NAMED:
                break
            found.setdefault(each.path, each)
    return tuple(found.values())


def owned_by_others(paths: Iterable[Path], friends: Collection[int]) -> tuple[Exposed, ...]:
    """Of these paths and the way to them, what belongs neither to root nor to one of the uids `friends`. What is not
    there is left out."""
    owners = {*root_ids(), *friends}
    found = {
        each.path: each
        for path in paths
        if os.path.lexists(path)
        for each in _on_way(path.absolute(), owners, owners)
        if each.uid is not None
    }
    return tuple(found.values())


def make_own_empty_directory(path: Path) -> None:
    """Make `path` and the directories above it, mode 0700; an empty directory of this user is taken.

    Raises:
        ConflictError: something else is there, or another account could put its own in the place of it.
        OSError: it cannot be made.
    """
    fix = "name a new directory, in one that only you and root can write to or in /var/tmp"
    owners = (*root_ids(), os.geteuid())
    for parent in reversed(path.parents):
        with suppress(FileExistsError):
            parent.mkdir(mode=0o755)
        parent.stat()  # a circle of links ends here
        _refuse_first(_step(parent, owners), fix)
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            raise _not_empty(path) from None
        _refuse_first(_foreign(path, status, (os.geteuid(),)), fix)
        _require_empty(path)
        path.chmod(0o700)
        # Other accounts that could write to it until now may have done so after the first look.
        _require_empty(path)


def _refuse_first(found: Iterator[Exposed], fix: str) -> None:
    for each in found:
        raise ConflictError(each.why, where=str(each.path), fix=fix)


def _on_way(path: Path, owners: Collection[int], last: Collection[int]) -> Iterator[Exposed]:
    """Steps from the root to `path`, and those of links on the way, that others than `owners` control; what `path`
    leads to in the end must be of `last`."""
    path.stat()  # a circle of links ends here
    for parent in reversed(path.parents):
        yield from _step(parent, owners)
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        yield from _foreign(path, status, owners)
        yield from _on_way(path.parent / path.readlink(), owners, last)
        return
    yield from _foreign(path, status, last)
    if status.st_mode & _OTHERS_WRITE:
        yield Exposed(path, "others can write to it")


def _step(directory: Path, owners: Collection[int]) -> Iterator[Exposed]:
    """A directory, or a link to one, in which another account can rename what is there."""
    status = directory.lstat()
    yield from _foreign(directory, status, owners)
    if stat.S_ISLNK(status.st_mode):
        target = directory.parent / directory.readlink()
        for step in (*reversed(target.parents), target):
            yield from _step(step, owners)
    elif status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        # With the sticky bit, as in /tmp, everybody renames and removes only what is theirs.
        yield Exposed(directory, "others can write to this directory")


def _below(tree: Path, owners: Collection[int]) -> Iterator[Exposed]:
    """What lies in `tree` and is not of `owners`, or can be written to by others."""
    with os.scandir(tree) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        status = entry.stat(follow_symlinks=False)
        yield from _foreign(Path(entry.path), status, owners)
        if status.st_mode & _OTHERS_WRITE and not stat.S_ISLNK(status.st_mode):
            yield Exposed(Path(entry.path), "others can write to it")
        if stat.S_ISDIR(status.st_mode):
            yield from _below(Path(entry.path), owners)


def _foreign(path: Path, status: os.stat_result, owners: Collection[int]) -> Iterator[Exposed]:
    if status.st_uid not in owners:
        who = user_of(status.st_uid)
        why = f"this belongs to another user ({who}), who could put something else in its place"
        yield Exposed(path, why, status.st_uid)


def _require_empty(directory: Path) -> None:
    if any(directory.iterdir()):
        raise _not_empty(directory)


def _not_empty(path: Path) -> ConflictError:
    return ConflictError(
        "this is there already and is not an empty directory", where=str(path), fix="name a new directory"
    )
