"""Checksums of the image store's files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from emulator.images.store.manifest import Artefact


def artefact(path: Path) -> Artefact:
    """Checksum and size of the file `path`."""
    with path.open("rb") as stream:
        return Artefact(hashlib.file_digest(stream, "sha256").hexdigest(), os.fstat(stream.fileno()).st_size)


def digest_of(artefacts: Mapping[str, Artefact]) -> str:
    """The digest of an image: SHA-256 over its artefacts' checksums and names, in the format of sha256sum."""
    rows = "".join(f"{item.sha256}  {name}\n" for name, item in sorted(artefacts.items()))
    return hashlib.sha256(rows.encode()).hexdigest()
