"""Layers in an archive of container images that are no larger unpacked than they are there.

Containerd unpacks them on this host, as root, to make the files of a node. Bundles of ours have plain tar files; one
that comes from anywhere could have a layer that grows when it is unpacked, compressed or with sparse files in it.
"""

from __future__ import annotations

import tarfile
from typing import IO

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
# A zstd stream may begin with a frame that is skipped (RFC 8878, 3.1.2).
_SKIPPED = range(0x184D2A50, 0x184D2A60)


def require_plain_layers(stream: IO[bytes]) -> None:
    """Look at the headers of everything in a docker-archive and of every file in its layers.

    Args:
        stream: at its beginning; read to its end.

    Raises:
        ValueError: something in it would be larger unpacked; `tarfile` raises more at headers that make no sense.
    """
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        while (member := archive.next()) is not None:
            forget_members(archive)
            if member.issparse():
                raise ValueError(f"{member.name!r} is a sparse file")
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                _require_plain(content, member)


def _require_plain(content: IO[bytes], member: tarfile.TarInfo) -> None:
    head = content.read(tarfile.BLOCKSIZE)
    method = next((name for magic, name in _COMPRESSED.items() if head.startswith(magic)), None)
    if method is None and int.from_bytes(head[:4], "little") in _SKIPPED:
        method = "zstd"
    if method is not None:
        raise ValueError(f"{member.name!r} is compressed ({method})")
    if len(head) < tarfile.BLOCKSIZE or head[257:262] != b"ustar":
        return  # no tar file: the list of images, or the configuration of one
    content.seek(0)
    with tarfile.open(fileobj=content, mode="r:") as layer:
        while (file := layer.next()) is not None:
            forget_members(layer)
            if file.issparse() or file.size > member.size:
                raise ValueError(f"{file.name!r} in layer {member.name!r} is a sparse file")


def forget_members(archive: tarfile.TarFile) -> None:
    """Let go of the members that were read: tarfile keeps each, of which there may be any number."""
    archive.members = []  # type: ignore[attr-defined]  # typeshed does not have it
