"""Trees that become part of an image unchanged.

Containerd's store is one: it holds the unpacked files of other systems, to which owner, group, mode, hard links,
device nodes (overlayfs marks what a layer deletes with one) and extended attributes (file capabilities) belong.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import HyperscalerError
from emulator.images.build.tree_size import used_bytes
from emulator.images.recipe import tree_paths

# The label that this host's policy gave the file; it says nothing in the guest.
_OF_THE_HOST = frozenset({"security.selinux"})


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a tree. Texts are UTF-8 with what is not UTF-8 as surrogates, whatever the locale of this host.

    `name` is relative to the tree. `target` is what a symbolic link says. `same_as` is the first name of this inode
    in the tree, empty for that one itself. `attributes` are the extended attributes, sorted by name.
    """

    source: Path
    name: str
    status: os.stat_result
    target: str
    same_as: str
    attributes: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The inputs of an image: the digest of each tree, and their total bytes in it."""

    digests: Mapping[str, str]
    size: int


def described(trees: Mapping[str, Path]) -> Inputs:
    """Digests and size of the trees, read whole."""
    return Inputs({name: input_digest(tree) for name, tree in trees.items()}, sum(map(used_bytes, trees.values())))


def entries(tree: Path) -> Iterator[Entry]:
    """Everything under a tree, sorted by path; the first name of an inode comes before its others.

    Raises:
        HyperscalerError: there is a socket in it, which no archive can hold.
    """
    first: dict[tuple[int, int], str] = {}
    for source in tree_paths(tree):
        status = source.lstat()
        if stat.S_ISSOCK(status.st_mode):
            raise HyperscalerError("a socket cannot be laid into an image", where=str(source))
        name, same_as = _text(source.relative_to(tree)), ""
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            known = first.setdefault((status.st_dev, status.st_ino), name)
            same_as = "" if known == name else known
        target = _text(source.readlink()) if stat.S_ISLNK(status.st_mode) else ""
        yield Entry(source, name, status, target, same_as, _attributes(source))


def input_digest(tree: Path) -> str:
    """SHA-256 over all of a tree that an image keeps, hexadecimal. Where it lies does not count, and times do not:
    the same files laid out again are the same input."""
    total = hashlib.sha256()
    for entry in entries(tree):
        status = entry.status
        device = status.st_rdev if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else 0
        numbers = (status.st_mode, status.st_uid, status.st_gid, device)
        # repr() cannot give two entries one text.
        total.update(ascii((entry.name, numbers, entry.target, entry.same_as, entry.attributes)).encode())
        if stat.S_ISREG(status.st_mode) and not entry.same_as:
            with entry.source.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()


def _text(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def _attributes(path: Path) -> tuple[tuple[str, bytes], ...]:
    try:
        names = sorted(set(os.listxattr(path, follow_symlinks=False)) - _OF_THE_HOST)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return ()
        raise
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in names)
