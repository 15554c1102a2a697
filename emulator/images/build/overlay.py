"""The archive that is unpacked over an image's root: a recipe's own files, and its inputs."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterable
from pathlib import Path

from emulator.images.build.input_tree import Entry, entries
from emulator.images.recipe import file_mode, tree_paths

# star's name for an extended attribute in a header of the pax format; GNU tar and libarchive read it.
_ATTRIBUTE = "SCHILY.xattr."
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}


def write_overlay(path: Path, files: Iterable[Path], inputs: Iterable[Path]) -> None:
    """A new tar of trees, later ones over earlier ones.

    Args:
        path: of the archive.
        files: trees of the recipe: owned by root, modes from the executable bit, times 0, whatever the checkout has.
        inputs: trees that are kept as they are. To be unpacked by root, with extended attributes of all namespaces.
    """
    with tarfile.open(path, "x", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as archive:
        for tree in files:
            for source in tree_paths(tree):
                _add_plain(archive, source, str(source.relative_to(tree)))
        for tree in inputs:
            for entry in entries(tree):
                _add_whole(archive, entry)


def _add_plain(archive: tarfile.TarFile, source: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.mode = file_mode(source)
    if source.is_symlink():
        member.type, member.linkname = tarfile.SYMTYPE, str(source.readlink())
    elif source.is_dir():
        member.type = tarfile.DIRTYPE
    _add(archive, member, source)


def _add_whole(archive: tarfile.TarFile, entry: Entry) -> None:
    status = entry.status
    member = tarfile.TarInfo(entry.name)
    member.type = _TYPES[stat.S_IFMT(status.st_mode)]
    member.mode, member.uid, member.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    # No one needs the time of a directory, and systemd treats a young /usr as an update and rebuilds its caches.
    member.mtime = 0 if member.isdir() else int(status.st_mtime)
    if entry.same_as:
        member.type, member.linkname = tarfile.LNKTYPE, entry.same_as
    else:
        member.linkname = entry.target
        member.pax_headers = {_keyword(name): _value(value) for name, value in entry.attributes}
    if member.isdev():
        member.devmajor, member.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    _add(archive, member, entry.source)


def _add(archive: tarfile.TarFile, member: tarfile.TarInfo, source: Path) -> None:
    if not member.isreg():
        archive.addfile(member)
        return
    with source.open("rb") as stream:
        member.size = source.stat().st_size
        archive.addfile(member, stream)


def _keyword(name: str) -> str:
    """A record is `LENGTH KEYWORD=VALUE`; GNU tar writes the sign in a keyword, and its escape, so."""
    return _ATTRIBUTE + name.replace("%", "%25").replace("=", "%3D")


def _value(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
