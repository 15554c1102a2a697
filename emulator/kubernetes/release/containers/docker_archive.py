"""Container images as docker-archive tars: written, of one layer, and asked for their names. No container tool."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_LISTING = "manifest.json"
_MAX_LISTING_BYTES = 1024 * 1024
# Far more files than the images of a release have layers.
_MAX_MEMBERS = 10_000


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
        archive.addfile(_member(_LISTING, len(listing)), io.BytesIO(listing))


def copy_images(archives: Sequence[Path], target: Path, wanted: Callable[[str], bool]) -> None:
    """Write those images of `archives` whose name is `wanted` into one archive; their layers stay as they are.

    Raises:
        ValueError, KeyError, tarfile.TarError: one is no docker-archive.
    """
    entries, there = [], set()
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as copy:
        for path in archives:
            with tarfile.open(path, "r:") as archive:
                for entry in _entries(archive):
                    names = [name for name in entry.get("RepoTags") or () if wanted(name)]
                    if not names:
                        continue
                    entries.append({**entry, "RepoTags": names})
                    for name in (entry["Config"], *entry["Layers"]):
                        if name not in there:
                            there.add(name)
                            member = archive.getmember(name)
                            copy.addfile(_member(name, member.size), archive.extractfile(member))
        listing = json.dumps(entries).encode()
        copy.addfile(_member(_LISTING, len(listing)), io.BytesIO(listing))


def _entries(archive: tarfile.TarFile) -> list[dict[str, Any]]:
    listing = archive.extractfile(_LISTING)
    entries = json.loads(listing.read(_MAX_LISTING_BYTES)) if listing is not None else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"its {_LISTING} is no list of images")
    return entries


def references(stream: IO[bytes]) -> frozenset[str]:
    """Names of the images in a docker-archive, which comes from anywhere.

    Raises:
        ValueError: it is no docker-archive; `tarfile` raises more at headers that make no sense.
    """
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for count, member in enumerate(archive):
            if member.name == _LISTING and member.type == tarfile.REGTYPE and member.size <= _MAX_LISTING_BYTES:
                listing = archive.extractfile(member)
                return _names(json.loads(listing.read() if listing is not None else b""))
            if count > _MAX_MEMBERS:
                break
    raise ValueError(f"there is no {_LISTING} in it")


def _names(entries: object) -> frozenset[str]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"its {_LISTING} is no list of images")
    tags = [entry.get("RepoTags") or () for entry in entries]
    return frozenset(str(tag) for each in tags if isinstance(each, list) for tag in each)


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
