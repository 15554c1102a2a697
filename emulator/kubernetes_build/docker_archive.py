"""Container images as docker-archive tars of one layer, written without any container tool."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ContainerImage:
    """`root` is laid out as the image's root directory; links in it are kept as they are."""

    reference: str
    root: Path
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)


def write_archive(path: Path, images: Sequence[ContainerImage], *, architecture: str) -> None:
    """Write `images` into one docker-archive, the same bytes for the same content: times 0, owner root.

    Layers are not compressed: a guest on an emulated CPU would spend minutes on it.
    """
    entries = []
    layers: set[str] = set()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for image in images:
            layer = path.with_name(path.name + ".layer")
            try:
                digest = _write_layer(layer, image.root)
                name = f"{digest}.tar"
                if name not in layers:
                    layers.add(name)
                    member = _member(name, layer.stat().st_size)
                    with layer.open("rb") as stream:
                        archive.addfile(member, stream)
            finally:
                layer.unlink(missing_ok=True)
            config = _config(image, digest, architecture)
            config_name = f"{hashlib.sha256(config).hexdigest()}.json"
            archive.addfile(_member(config_name, len(config)), io.BytesIO(config))
            entries.append({"Config": config_name, "RepoTags": [image.reference], "Layers": [name]})
        listing = json.dumps(entries).encode()
        archive.addfile(_member("manifest.json", len(listing)), io.BytesIO(listing))


def _config(image: ContainerImage, layer_digest: str, architecture: str) -> bytes:
    document = {
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {
            "Env": list(image.environment),
            "Entrypoint": list(image.entrypoint),
            "Cmd": list(image.command),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        "history": [{"created": "1970-01-01T00:00:00Z"}],
    }
    return json.dumps(document, sort_keys=True).encode()


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    return member


def _write_layer(path: Path, root: Path) -> str:
    """One layer; its SHA-256, which is also the diff id as it is not compressed."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for source in sorted(root.rglob("*")):
            member = _member(str(source.relative_to(root)), 0)
            if source.is_symlink():
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(source), 0o777  # noqa: PTH115
                archive.addfile(member)
            elif source.is_dir():
                # Sticky where everybody may write; otherwise plain, whatever the umask of the builder was.
                member.type, member.mode = tarfile.DIRTYPE, 0o1777 if source.name == "tmp" else 0o755
                archive.addfile(member)
            else:
                status = source.stat()
                member.size, member.mode = status.st_size, 0o755 if status.st_mode & 0o100 else 0o644
                with source.open("rb") as stream:
                    archive.addfile(member, stream)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
