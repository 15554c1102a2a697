"""The input from which a Packer build's files were written, stored with them and compared when the disk is imported."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import StateError, UsageError
from emulator.images.build.builder import BUILDER_VERSION
from emulator.images.build.input_tree import described
from emulator.images.recipe import NAME, Recipe

RECORD_NAME = "image.json"
RECORD_VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class PackerRecord:
    """The input from which a directory's files were written: stored with them, compared at the import."""

    name: str
    recipe_digest: str
    builder_version: str
    inputs: Mapping[str, str]
    input_bytes: int = 0
    """What the inputs take in the image."""

    def to_json(self) -> str:
        return json.dumps(
            {
                "version": RECORD_VERSION,
                "name": self.name,
                "recipe_digest": self.recipe_digest,
                "builder_version": self.builder_version,
                "inputs": dict(self.inputs),
                "input_bytes": self.input_bytes,
            },
            indent=1,
        )


def read_record(directory: Path) -> PackerRecord:
    """The record in a directory that `write_packer_files` made.

    Raises:
        UsageError: the directory has none.
        StateError: it cannot be understood.
    """
    path = directory / RECORD_NAME
    try:
        with path.open("rb") as stream:
            raw = json.loads(stream.read(64 * 1024))
        if raw["version"] != RECORD_VERSION:
            raise ValueError(f"version is {raw['version']!r}, not {RECORD_VERSION}")
        inputs = {str(name): str(digest) for name, digest in raw["inputs"].items()}
        if not all(NAME.fullmatch(name) and _SHA256.fullmatch(digest) for name, digest in inputs.items()):
            raise ValueError("inputs are damaged")
        size = raw.get("input_bytes", 0)  # records of earlier versions do not have it
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError("input_bytes is no number of bytes")
        return PackerRecord(str(raw["name"]), str(raw["recipe_digest"]), str(raw["builder_version"]), inputs, size)
    except FileNotFoundError as error:
        fix = "write it with `hyperscaler image packer-files NAME DIR`, and run Packer with it"
        raise UsageError("this is no directory of a Packer build", where=str(path), fix=fix) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StateError(f"the record of the Packer build cannot be read: {error!r}", where=str(path)) from error


def record_of(recipe: Recipe, inputs: Mapping[str, Path]) -> PackerRecord:
    """The record that a build of this recipe with these trees would get now."""
    laid = described(inputs)
    return PackerRecord(
        name=recipe.name,
        recipe_digest=recipe.digest(builder_version=BUILDER_VERSION),
        builder_version=BUILDER_VERSION,
        inputs=laid.digests,
        input_bytes=laid.size,
    )
