"""Offline bundles: one tar file with a release's programs and images, its manifest first."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from emulator.core.errors import StateError, UsageError
from emulator.core.fs import publish_tree, replacing
from emulator.kubernetes.release.bundles.file import BROKEN_FIX, MALFORMED, opened_bundle, require_bounded, surplus
from emulator.kubernetes.release.containers.docker_archive import references
from emulator.kubernetes.release.containers.layers import forget_members, require_plain_layers
from emulator.kubernetes.release.disk_room import require_room
from emulator.kubernetes.release.release import (
    DIRECTORIES,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Release,
    ReleaseError,
    ReleaseManifest,
    missing_programs,
    parse_manifest,
    read_release,
    verify_release,
)

_BLOCK = 1024 * 1024
_MOST_FAULTS = 20

Trust = Callable[[str], object]
"""Called with the text of a bundle's manifest before anything else is believed; raises where it is not to be."""


def create_bundle(release: Release, path: Path) -> ReleaseManifest:
    """Write a release as a bundle to `path`, which must not exist.

    Raises:
        UsageError: something is at `path` already.
        ReleaseError: the release on this host does not match its manifest.
    """
    faults = verify_release(release)
    if faults:
        raise ReleaseError(
            "the release is damaged: " + "; ".join(faults),
            where=str(release.directory),
            fix="remove the directory; it is made again",
        )
    if path.exists():
        raise UsageError(f"{path} exists already", fix="choose another name, or remove it")
    with (
        replacing(path, mode=0o644, ending=".part") as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        data = release.manifest.to_json().encode()
        archive.addfile(_member(MANIFEST, len(data), 0o644), io.BytesIO(data))
        for name, file in sorted(release.manifest.files.items()):
            mode = 0o755 if name.startswith("bin/") else 0o644
            with release.path(name).open("rb") as source:
                archive.addfile(_member(name, file.size, mode), source)
    return release.manifest


def show_bundle(path: Path, trust: Trust | None = None) -> ReleaseManifest:
    """The manifest of a bundle, without reading the rest.

    Raises:
        UsageError: there is no such file.
        ReleaseError: the file is no bundle.
        HyperscalerError: what `trust` raises.
    """
    with opened_bundle(path) as archive:
        return _manifest(archive, path, trust)


def verify_bundle(path: Path, trust: Trust | None = None) -> ReleaseManifest:
    """Read a bundle whole and compare everything with its manifest.

    Raises:
        HyperscalerError: what `trust` raises.
        UsageError: there is no such file.
        ReleaseError: cut short, altered, or with more or less in it than the manifest says, images in the archives
            included; all faults are listed.
    """
    with opened_bundle(path) as archive:
        manifest = _manifest(archive, path, trust)
        _walk(archive, manifest, path, None)
    return manifest


def unpack_bundle(path: Path, cache: Path, trust: Trust | None = None) -> Release:
    """The bundle's release under `cache`, verified while it is unpacked; what is there already is used. To be called
    under `cache_lock`.

    Raises:
        UsageError, HyperscalerError: see `verify_bundle`; nothing is left of a bad bundle.
        HostNotFitError: the bundle's files are larger than the room that is free.
    """
    with opened_bundle(path) as archive:
        manifest = _manifest(archive, path, trust)
        found = unpacked(manifest, cache)
        if found is not None:
            return found
        final = _place(manifest, cache)
        cache.mkdir(parents=True, exist_ok=True)
        require_unpack_room(manifest, cache)
        stage = cache / f".unpack-{os.getpid()}"
        shutil.rmtree(stage, ignore_errors=True)
        for name in DIRECTORIES:
            (stage / name).mkdir(parents=True)
        try:
            _walk(archive, manifest, path, stage)
            (stage / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            shutil.rmtree(final, ignore_errors=True)
            publish_tree(stage, final)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return Release(final, manifest)


def unpacked(manifest: ReleaseManifest, cache: Path) -> Release | None:
    """What `unpack_bundle` left of a bundle with this manifest; None when it has to be unpacked."""
    try:
        found = read_release(_place(manifest, cache))
    except StateError:
        return None
    return found if found.manifest.digest == manifest.digest else None


def require_unpack_room(manifest: ReleaseManifest, cache: Path) -> None:
    """Raises: HostNotFitError when `cache`, which need not be there yet, has no room for the bundle's files."""
    require_room(cache, sum(file.size for file in manifest.files.values()), "unpacking the bundle")


def _place(manifest: ReleaseManifest, cache: Path) -> Path:
    return cache / f"{manifest.version}-{manifest.digest[:12]}"


def _manifest(archive: tarfile.TarFile, path: Path, trust: Trust | None) -> ReleaseManifest:
    member = archive.next()
    if member is None or member.name != MANIFEST or not _is_plain(member) or member.size > MAX_MANIFEST_BYTES:
        raise ReleaseError(f"not a bundle: {MANIFEST} does not come first", where=str(path), fix=BROKEN_FIX)
    stream = archive.extractfile(member)
    text = stream.read().decode("utf-8", errors="replace") if stream is not None else ""
    if trust is not None:
        trust(text)
    manifest = parse_manifest(text, where=f"{path}:{MANIFEST}")
    require_bounded(manifest, where=str(path))
    missing = missing_programs(manifest)
    if missing:
        raise ReleaseError(f"the bundle lacks {', '.join(missing)}", where=str(path), fix=BROKEN_FIX)
    return manifest


def _walk(archive: tarfile.TarFile, manifest: ReleaseManifest, path: Path, target: Path | None) -> None:
    """Read every member, comparing; below `target` it is written too. Only names of the manifest are ever written."""
    more = surplus(archive, manifest)
    faults: list[str] = [more] if more else []
    seen: set[str] = set()
    images: set[str] = set()
    try:
        while not more and len(faults) < _MOST_FAULTS and (member := archive.next()) is not None:
            forget_members(archive)
            expected = manifest.files.get(member.name)
            if expected is None or not _is_plain(member) or member.name in seen:
                faults.append(f"{member.name!r} does not belong there")
                continue
            seen.add(member.name)
            stream = archive.extractfile(member)
            if stream is None or member.size != expected.size:
                faults.append(f"{member.name}: {member.size} bytes, the manifest says {expected.size}")
                continue
            written = None if target is None else target / member.name
            digest = _copy(stream, written)
            if digest != expected.sha256:
                faults.append(f"{member.name}: sha256 is {digest}, the manifest says {expected.sha256}")
            elif member.name.startswith("images/"):
                images |= _images(stream, written, member.name, faults)
        if not faults:
            faults += _behind(archive)
    except MALFORMED as error:
        faults.append(f"cut short or damaged: {error}")
    if not more:
        faults += [f"{name} is missing" for name in sorted(set(manifest.files) - seen)]
    if not faults:
        faults += [f"no archive in it holds the image {name}" for name in sorted(set(manifest.images) - images)]
    if faults:
        listed = "\n    ".join(faults[:_MOST_FAULTS])
        raise ReleaseError(f"the bundle is not what its manifest says:\n    {listed}", where=str(path), fix=BROKEN_FIX)


def _images(stream: IO[bytes], written: Path | None, name: str, faults: list[str]) -> frozenset[str]:
    """Images of an archive in the bundle. What the manifest says of images is worth nothing without them: the name of a
    program's image carries the version of the release. What was `written` is looked at, since nobody changes it."""
    try:
        with contextlib.ExitStack() as stack:
            source = stream if written is None else stack.enter_context(written.open("rb"))
            source.seek(0)
            require_plain_layers(source)
            source.seek(0)
            return references(source)
    except MALFORMED as error:
        faults.append(f"{name} is no archive of container images that can be used: {error}")
        return frozenset()


def _behind(archive: tarfile.TarFile) -> list[str]:
    """Faults behind the last member: a tar file ends with two empty blocks, filled up with zeros to a whole record."""
    stream = archive.fileobj
    if stream is None:
        return []
    stream.seek(archive.offset)
    end, most = 2 * tarfile.BLOCKSIZE, 2 * tarfile.BLOCKSIZE + tarfile.RECORDSIZE
    rest = stream.read(most)
    if rest.strip(b"\0") or len(rest) == most:
        return ["there is more behind the end of the bundle"]
    return ["cut short: its end is missing"] if len(rest) < end else []


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether it is a file with all of its bytes in the bundle, which a sparse one is not."""
    return member.type == tarfile.REGTYPE and not member.issparse()


def _copy(source: IO[bytes], target: Path | None) -> str:
    digest = hashlib.sha256()
    writer = target.open("xb") if target is not None else None
    try:
        while block := source.read(_BLOCK):
            digest.update(block)
            if writer is not None:
                writer.write(block)
    finally:
        if writer is not None:
            writer.close()
    return digest.hexdigest()


def _member(name: str, size: int, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, mode
    return member
