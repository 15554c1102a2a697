"""File operations of the image store: checksums, durability, and removal that cannot reach out of a tree."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from emulator.core.errors import ConflictError
from emulator.images.store.manifest import Artefact


def artefact(path: Path) -> Artefact:
    """Checksum and size of the file `path`."""
    with path.open("rb") as stream:
        return Artefact(hashlib.file_digest(stream, "sha256").hexdigest(), os.fstat(stream.fileno()).st_size)


def digest_of(artefacts: Mapping[str, Artefact]) -> str:
    """The digest of an image: SHA-256 over its artefacts' checksums and names, in the format of sha256sum."""
    rows = "".join(f"{item.sha256}  {name}\n" for name, item in sorted(artefacts.items()))
    return hashlib.sha256(rows.encode()).hexdigest()


def fsync(path: Path) -> None:
    """Flush a file's content, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, text: str, *, mode: int) -> None:
    """Replace a small file in one step: a reader sees either the old or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=mode, exist_ok=False)
    new.chmod(mode)
    new.write_text(text, encoding="utf-8")
    fsync(new)
    new.replace(path)
    fsync(path.parent)


def private(path: str, flags: int) -> int:
    """An `opener` for `open`: a file that it makes is closed to others from its first byte on; no link is followed."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner can read from the start.

    Raises:
        FileExistsError: something is there already, and may be readable.
    """
    with open(path, "x", encoding="utf-8", opener=private) as stream:
        stream.write(text)


def remove_tree(path: Path) -> None:
    """Remove a file or tree, but never through a mount: a killed build tool could have left the host's /dev in it.

    Raises:
        ConflictError: something is mounted below.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    inside = f"{path.resolve()}/"
    mounts = [row.split()[4] for row in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    held = [mount for mount in mounts if mount.startswith(inside)]
    if held:
        raise ConflictError(
            f"something is mounted in a left-over of an image build: {held[0]}",
            where=str(path),
            fix=f"umount {held[-1]}",
        )
    shutil.rmtree(path)
