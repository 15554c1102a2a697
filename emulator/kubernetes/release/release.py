"""A Kubernetes release on this host: programs and container images in a directory, with a manifest of checksums."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from emulator.core.errors import HyperscalerError, StateError

FORMAT = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 1024 * 1024

# What a node needs, by the file's directory: `bin/` are programs of the node, `cni/` those of its network plugins,
# `images/` docker-archive tars, `manifests/` the objects of add-ons, one file each. `sbom/` is for people: no node has
# it.
DIRECTORIES = ("bin", "cni", "images", "manifests", "sbom")
_PATH = re.compile(r"(bin|cni|images|manifests|sbom)/[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"\d{1,2}\.\d{1,3}\.\d{1,3}")
_IMAGE = re.compile(r"[a-z0-9][a-z0-9.-]{0,200}(?::\d{1,5})?(?:/[a-z0-9][a-z0-9._-]{0,100}){0,8}:[A-Za-z0-9._-]{1,100}")
_ADDON = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

NODE_PROGRAMS = ("kubeadm", "kubelet", "kubectl")
# What kubeadm starts, under the names that it gives to the images; the first four have the version of the release.
_VERSIONED_IMAGES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
# Which images may serve as what, by the last part of the name.
_ROLES = {"pause_image": ("pause",), "cluster_dns": ("coredns",), "tools": ("tools",)}
ARCHITECTURE = "amd64"
"""Of the guests, and so of every release that they can use."""


class ReleaseError(HyperscalerError):
    """A release or a bundle is not what its manifest says."""


@dataclass(frozen=True, slots=True)
class ReleaseFile:
    """`size` is bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ReleaseManifest:
    """`version` such as 1.37.2; `origin` describes its source in words.

    `repository` is kubeadm's imageRepository; `images` are the references that the tars hold; `cluster_dns` and
    `tools` name the image of the cluster's DNS server and of the pods that verify starts. `fetched` has, by add-on, the
    SHA-256 of its manifest as upstream had it, before anything was changed in it.
    """

    version: str
    architecture: str
    origin: str
    repository: str
    pause_image: str
    cluster_dns: str
    tools: str
    images: tuple[str, ...]
    files: Mapping[str, ReleaseFile]
    packages: Mapping[str, str] = field(default_factory=dict)
    fetched: Mapping[str, str] = field(default_factory=dict)

    @property
    def addons(self) -> tuple[str, ...]:
        """Names of the add-ons whose manifests are in the release."""
        files = (PurePosixPath(path) for path in sorted(self.files))
        return tuple(file.stem for file in files if file.parts[0] == "manifests" and file.suffix == ".yaml")

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides what a node gets, hexadecimal.

        The names of images are not in it, since they follow from the files: `verify_bundle` finds them in the archives,
        and `missing_images` and `misnamed_images` bind `pause_image`, `cluster_dns` and `tools` to them.
        """
        total = hashlib.sha256(f"{FORMAT} {self.version} {self.architecture} {self.repository}\n".encode())
        for path, file in sorted(self.files.items()):
            if not path.startswith("sbom/"):
                total.update(f"{path} {file.sha256} {file.size}\n".encode())
        return total.hexdigest()

    def to_json(self) -> str:
        document = {
            "format": FORMAT,
            "version": self.version,
            "architecture": self.architecture,
            "origin": self.origin,
            "repository": self.repository,
            "pause_image": self.pause_image,
            "cluster_dns": self.cluster_dns,
            "tools": self.tools,
            "images": list(self.images),
            "packages": dict(sorted(self.packages.items())),
            "fetched": dict(sorted(self.fetched.items())),
            "files": {path: {"sha256": file.sha256, "size": file.size} for path, file in sorted(self.files.items())},
        }
        return json.dumps(document, indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Release:
    """`directory` holds the files of the manifest under their paths."""

    directory: Path
    manifest: ReleaseManifest

    def path(self, name: str) -> Path:
        return self.directory / name

    @property
    def image_tars(self) -> tuple[Path, ...]:
        return tuple(self.path(name) for name in sorted(self.manifest.files) if name.startswith("images/"))

    @property
    def manifests(self) -> tuple[Path, ...]:
        """Objects of add-ons, one file each."""
        return tuple(self.path(f"manifests/{name}.yaml") for name in self.manifest.addons)

    @property
    def programs(self) -> tuple[Path, ...]:
        return tuple(self.path(name) for name in sorted(self.manifest.files) if name.startswith("bin/"))

    @property
    def network_programs(self) -> tuple[Path, ...]:
        """CNI plugins; a release without any leaves a node with its image's own."""
        return tuple(self.path(name) for name in sorted(self.manifest.files) if name.startswith("cni/"))


def parse_manifest(text: str, *, where: str) -> ReleaseManifest:
    """Read a manifest; everything in it is checked, because a bundle comes from anywhere.

    Raises:
        ReleaseError: it is no manifest of a format that this version knows.
    """
    try:
        raw = json.loads(text)
        if raw["format"] != FORMAT:
            raise ReleaseError(
                f"manifest format {raw['format']!r}; this version reads format {FORMAT}",
                where=where,
                fix="make the bundle again with this version: hyperscaler bundle create",
            )
        files = {
            _checked(path, _PATH): ReleaseFile(_checked(entry["sha256"], _SHA256), _size(entry["size"]))
            for path, entry in raw["files"].items()
        }
        return ReleaseManifest(
            version=_checked(raw["version"], _VERSION),
            architecture=_checked(raw["architecture"], re.compile(r"[a-z0-9]{2,16}")),
            origin=_checked(raw["origin"], re.compile(r"[ -~]{0,300}")),
            repository=_checked(raw["repository"], re.compile(r"[a-z0-9][a-z0-9./:-]{0,200}")),
            pause_image=_checked(raw["pause_image"], _IMAGE),
            cluster_dns=_checked(raw["cluster_dns"], _IMAGE),
            tools=_checked(raw["tools"], _IMAGE),
            images=tuple(_checked(image, _IMAGE) for image in raw["images"]),
            files=files,
            packages={str(name): str(version) for name, version in raw.get("packages", {}).items()},
            fetched={
                _checked(name, _ADDON): _checked(sha256, _SHA256) for name, sha256 in raw.get("fetched", {}).items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ReleaseError(f"not a release manifest: {error}", where=where) from error


def _checked(value: object, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{value!r} cannot be used here")
    return value


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value


def describe_file(path: Path) -> ReleaseFile:
    """Checksum and size of a file on this host."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return ReleaseFile(digest, path.stat().st_size)


def read_release(directory: Path) -> Release:
    """The release in a directory; sizes are compared, checksums only by `verify_release`.

    Raises:
        StateError: the directory holds no complete release.
    """
    path = directory / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise StateError("the manifest is larger than any that this program writes", where=str(path))
        manifest = parse_manifest(path.read_text(encoding="utf-8"), where=str(path))
    except (OSError, UnicodeDecodeError, ReleaseError) as error:
        raise StateError(
            f"no Kubernetes release there: {error}", where=str(directory), fix="remove the directory; it is made again"
        ) from error
    for name, file in manifest.files.items():
        found = directory / PurePosixPath(name)
        if not found.is_file() or found.stat().st_size != file.size:
            raise StateError(
                f"{name} is missing or cut short", where=str(directory), fix="remove the directory; it is made again"
            )
    return Release(directory, manifest)


def verify_release(release: Release) -> list[str]:
    """Compare every file with the manifest; one line for each difference, none when all is well."""
    faults = []
    for name, expected in sorted(release.manifest.files.items()):
        try:
            actual = describe_file(release.path(name))
        except OSError as error:
            faults.append(f"{name}: {error.strerror}")
            continue
        if actual != expected:
            faults.append(f"{name}: sha256 is {actual.sha256}, the manifest says {expected.sha256}")
    return faults


def missing_programs(manifest: ReleaseManifest) -> tuple[str, ...]:
    """Programs that a node needs and the release lacks."""
    return tuple(name for name in NODE_PROGRAMS if f"bin/{name}" not in manifest.files)


def brings_containerd(manifest: ReleaseManifest) -> bool:
    """Whether a node runs the release's own containerd, not that of its image."""
    return {"bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr"} <= set(manifest.files)


def missing_images(manifest: ReleaseManifest) -> tuple[str, ...]:
    """Container images that a cluster needs and the release lacks."""
    fixed = [f"{manifest.repository}/{name}:v{manifest.version}" for name in _VERSIONED_IMAGES]
    fixed += [manifest.pause_image, manifest.cluster_dns, manifest.tools]
    missing = [reference for reference in dict.fromkeys(fixed) if reference not in manifest.images]
    etcd = f"{manifest.repository}/etcd"
    if not any(reference.rpartition(":")[0] == etcd for reference in manifest.images):
        missing.append(etcd)
    return tuple(missing)


def misnamed_images(manifest: ReleaseManifest) -> tuple[str, ...]:
    """One line for each image that the release names for what it is not, such as kube-proxy as the pause image."""
    named = {"pause_image": manifest.pause_image, "cluster_dns": manifest.cluster_dns, "tools": manifest.tools}
    return tuple(
        f"{key}: {named[key]}"
        for key, programs in _ROLES.items()
        if named[key].rpartition("/")[2].partition(":")[0] not in programs
    )
