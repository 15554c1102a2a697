"""Which version of an input went into an image, as the input's own record in the guest says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

_MAX_RECORD_BYTES = 1024 * 1024
# It goes into plans and messages, and the record may come from a disk that somebody else made.
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~-]{0,63}")


def record_path(name: str) -> str:
    """Where a guest has the record of the input `name`, relative to its root; JSON with a `version`."""
    return f"usr/lib/hyperscaler/{name}.json"


def input_version(name: str, tree: Path) -> str:
    """The version that the record in `tree` gives; empty when there is none, or none that can be read."""
    try:
        with (tree / record_path(name)).open("rb") as stream:
            raw = json.loads(stream.read(_MAX_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return ""
    version = raw.get("version") if isinstance(raw, dict) else None
    return version if isinstance(version, str) and _VERSION.fullmatch(version) else ""


def input_versions(trees: Mapping[str, Path]) -> dict[str, str]:
    """Those of several inputs; one that does not say is left out."""
    found = {name: input_version(name, tree) for name, tree in trees.items()}
    return {name: version for name, version in found.items() if version}
