"""The record stored with an image: its contents, its sources and its builder. The format is versioned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from emulator.core.errors import StateError

MANIFEST_SCHEMA = 1
MANIFEST_NAME = "manifest.json"
SIGNATURE_NAME = "manifest.json.sig"
MAX_MANIFEST_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Artefact:
    """A file of the image: SHA-256 in hexadecimal and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of one built image.

    `digest` identifies the artefacts, `recipe_digest` what they were built from. `cmdline` are the kernel
    parameters that every guest of this image needs. `inputs` are the digests of the trees that the builder was given,
    `versions` what these trees say of themselves (`kubernetes`: 1.31.4). `virtual_size` is the disk's size in bytes as
    the guest sees it, and so the least size of an overlay. `built_at` is UTC in ISO 8601, `build_seconds` wall-clock.
    `records` are the further files that the checksums (and so a signature of the manifest) cover: the bill of
    materials.
    """

    name: str
    digest: str
    recipe_digest: str
    builder_version: str
    suite: str
    architecture: str
    kernel_version: str
    cmdline: tuple[str, ...]
    virtual_size: int
    built_at: str
    build_seconds: float
    artefacts: Mapping[str, Artefact]
    description: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    records: Mapping[str, Artefact] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The file's text: sorted keys, so that two manifests can be compared with diff."""
        return json.dumps({"schema": MANIFEST_SCHEMA, **asdict(self)}, indent=1, sort_keys=True) + "\n"


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file `path`.

    Raises:
        StateError: it is missing, damaged, or of a newer format.
    """
    fix = "remove the image with `hyperscaler image rm` and build it again"
    try:
        with path.open("rb") as stream:
            raw = json.loads(stream.read(MAX_MANIFEST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise StateError(f"the image's manifest cannot be read: {error}", where=str(path), fix=fix) from error
    if not isinstance(raw, dict):
        raise StateError("the image's manifest is damaged", where=str(path), fix=fix)
    if raw.get("schema") != MANIFEST_SCHEMA:
        raise StateError(
            f"the image's manifest has schema {raw.get('schema')!r}; this program knows {MANIFEST_SCHEMA}",
            where=str(path),
            fix=fix,
        )
    try:
        return _parse(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"the image's manifest is damaged: {error!r}", where=str(path), fix=fix) from error


def _parse(raw: Mapping[str, object]) -> Manifest:
    def text(key: str) -> str:
        value = raw[key]
        if not isinstance(value, str):
            raise TypeError(f"{key} is not a string")
        return value

    def mapping(key: str) -> Mapping[str, object]:
        value = raw[key]
        if not isinstance(value, dict):
            raise TypeError(f"{key} is not an object")
        return value

    def number(source: Mapping[str, object], key: str) -> float:
        value = source[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{key} is not a number")
        return value

    def artefact(value: object) -> Artefact:
        if not isinstance(value, dict) or not isinstance(value.get("sha256"), str):
            raise TypeError("artefacts are damaged")
        return Artefact(sha256=value["sha256"], size=int(number(value, "size")))

    cmdline = raw["cmdline"]
    if not isinstance(cmdline, list):
        raise TypeError("cmdline is not a list")
    return Manifest(
        name=text("name"),
        digest=text("digest"),
        recipe_digest=text("recipe_digest"),
        builder_version=text("builder_version"),
        suite=text("suite"),
        architecture=text("architecture"),
        kernel_version=text("kernel_version"),
        cmdline=tuple(str(word) for word in cmdline),
        virtual_size=int(number(raw, "virtual_size")),
        built_at=text("built_at"),
        build_seconds=float(number(raw, "build_seconds")),
        artefacts={name: artefact(value) for name, value in mapping("artefacts").items()},
        description=text("description"),
        packages={name: str(version) for name, version in mapping("packages").items()},
        tools={name: str(version) for name, version in mapping("tools").items()},
        # Manifests were first written without these keys.
        inputs={name: str(digest) for name, digest in mapping("inputs").items()} if "inputs" in raw else {},
        records={name: artefact(value) for name, value in mapping("records").items()} if "records" in raw else {},
        versions={name: str(version) for name, version in mapping("versions").items()} if "versions" in raw else {},
    )
