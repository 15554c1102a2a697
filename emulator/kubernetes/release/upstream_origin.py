"""Where upstream's packages, images and manifests are, read from `config/kubernetes/upstream.yaml`."""

from __future__ import annotations

import hashlib
import re
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from emulator.core.errors import HostNotFitError, StateError
from emulator.kubernetes.release.pinning.https import MAX_DOWNLOAD_BYTES, open_https, request_of

FORMAT = 1
VERSION = "{version}"
"""Stands for the add-on's version in documents of this program's."""
_TIMEOUT = 60.0
PROBE_SECONDS = 4.0
"""How long upstream may take to answer before it counts as out of reach."""

# A reference in a manifest, wherever it stands: add-ons also keep templates of pods in ConfigMaps.
_IMAGE_LINE = re.compile(
    r"""^(?P<before>\s*(?:-\s+)?image:\s*)(?P<quote>["']?)(?P<name>[^\s"'{}]+)(?P=quote)\s*$""", re.M
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REFERENCE = re.compile(r"[a-z0-9][a-z0-9./:_-]{0,200}(?:@sha256:[0-9a-f]{64})?", re.I)


@dataclass(frozen=True, slots=True)
class Addon:
    """`version` is the add-on's own; `manifest` a URL. `sha256` is what the file there must have, if it is known.

    `own` are documents of this program's that come after those of the manifest. `images` are those to take instead of
    the manifest's, by what it calls them: for images that it names without a version.
    """

    version: str
    manifest: str
    # Not part of what a wish for a release is known by: a checksum that is written down later changes no file.
    sha256: str = field(default="", repr=False)
    own: str = ""
    images: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Origin:
    """`packages` and `key` are URLs with a place for the minor version; `fingerprint` is the key's.

    `insecure` is for a registry without TLS on this very machine, and for nothing else.
    """

    packages: str
    key: str
    fingerprint: str
    registry: str
    addons: Mapping[str, Addon]
    insecure: bool = False


def read_origin(path: Path) -> Origin:
    """Raises: StateError when the installation's file is damaged."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ValueError(f"format {raw['format']!r}")
        addons = {str(name): _addon(each, path.parent) for name, each in raw["addons"].items()}
        return Origin(str(raw["packages"]), str(raw["key"]), str(raw["fingerprint"]), str(raw["registry"]), addons)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise StateError(f"cannot be used: {error}", where=str(path), fix="install hyperscaler again") from error


def _addon(raw: Mapping[str, Any], directory: Path) -> Addon:
    sha256 = str(raw.get("sha256", ""))
    if sha256 and not _SHA256.fullmatch(sha256):
        raise ValueError(f"{sha256!r} is not a sha256")
    version = str(raw["version"])
    own = (directory / str(raw["own"])).read_text(encoding="utf-8").replace(VERSION, version) if "own" in raw else ""
    images = tuple((full_reference(str(name)), str(other)) for name, other in raw.get("images", {}).items())
    return Addon(version, str(raw["manifest"]), sha256, own, images)


def is_reachable(url: str, *, timeout: float = PROBE_SECONDS) -> bool:
    """Whether something answers at `url`, a file that is there. The environment's proxies are used."""
    try:
        with open_https(request_of(url, "HEAD"), timeout=timeout):
            return True
    except urllib.error.HTTPError as error:
        # A proxy that may not go there says so itself; that is no answer of upstream's.
        return error.code not in (403, 407, 502, 503, 504)
    except (OSError, ValueError):
        return False


def download(url: str) -> bytes:
    """The content at `url`, at most 16 MiB of it.

    Raises:
        HostNotFitError: it cannot be had.
    """
    try:
        with open_https(request_of(url, "GET"), timeout=_TIMEOUT) as reply:
            data: bytes = reply.read(MAX_DOWNLOAD_BYTES + 1)
    except (OSError, ValueError) as error:
        raise HostNotFitError(
            f"cannot be fetched: {error}",
            where=url,
            fix="check the way to the internet (https_proxy), or use source: bundle:PATH",
        ) from error
    if len(data) > MAX_DOWNLOAD_BYTES:
        raise HostNotFitError("is larger than anything expected there", where=url)
    return data


def package_versions(index: str, package: str) -> tuple[str, ...]:
    """Versions of a package in the text of a Debian repository's `Packages`."""
    found = []
    for paragraph in index.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Package") == package and "Version" in fields:
            found.append(fields["Version"].strip())
    return tuple(dict.fromkeys(found))


def full_reference(name: str) -> str:
    """A container image's reference in full: `busybox` is `docker.io/library/busybox:latest`.

    Raises:
        ValueError: it is no reference.
    """
    if not _REFERENCE.fullmatch(name):
        raise ValueError(f"{name!r} is no container image")
    path, _, digest = name.partition("@")
    first, slash, _ = path.partition("/")
    if not slash or not (set(first) & set(".:") or first == "localhost"):
        path = f"docker.io/{path}" if slash else f"docker.io/library/{path}"
    if ":" not in path.rpartition("/")[2]:
        path += ":latest"
    return f"{path}@{digest}" if digest else path


@dataclass(frozen=True, slots=True)
class AddonManifest:
    """`text` names its images by tag alone, as the nodes have them; `images` maps that name to what to fetch.

    `sha256` is that of the file before anything was changed in it; empty for one that was not fetched.
    """

    text: str
    images: Mapping[str, str]
    sha256: str = ""


def prepare_manifest(text: str, instead: Mapping[str, str] | None = None) -> AddonManifest:
    """A manifest for nodes that pull nothing.

    Args:
        text: YAML documents.
        instead: images to take in the place of others, by full reference.

    Digests are what decides which image is fetched; on the nodes it has its tag, since an archive keeps no digest of
    the registry's.

    Raises:
        ValueError: an image has a name that is none.
    """
    images: dict[str, str] = {}

    def rename(found: re.Match[str]) -> str:
        name = full_reference(found["name"])
        source = full_reference((instead or {}).get(name, name))
        plain = source.partition("@")[0]
        images[plain] = source
        return f"{found['before']}{plain}"

    return AddonManifest(_IMAGE_LINE.sub(rename, text), images)


def fetch_manifest(addon: Addon) -> AddonManifest:
    """An add-on's manifest from upstream.

    Raises:
        HostNotFitError: it cannot be had, is no manifest, or is another file than the one whose checksum is known.
    """
    data = download(addon.manifest)
    sha256 = hashlib.sha256(data).hexdigest()
    if addon.sha256 not in ("", sha256):
        raise HostNotFitError(
            f"its sha256 is {sha256}, and should be {addon.sha256}: the file was changed since",
            where=addon.manifest,
            fix="look at what is there now; if it can be trusted, write its sha256 in config/kubernetes/upstream.yaml",
        )
    try:
        text = "\n---\n".join([data.decode("utf-8"), *([addon.own] if addon.own else [])])
        return replace(prepare_manifest(text, dict(addon.images)), sha256=sha256)
    except ValueError as error:
        raise HostNotFitError(f"is not a manifest: {error}", where=addon.manifest) from error


def archive_name(reference: str) -> str:
    """A file name for the archive of an image."""
    return re.sub(r"[^a-z0-9.]+", "-", reference.lower()).strip("-")[:120] + ".tar"
