"""Reads an input's version from its own record in the guest."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

_MAX_RECORD_BYTES = 1024 * 1024
# It goes into plans and messages, and the record may come from a foreign disk.
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
    """The versions of several inputs; inputs without a record are left out."""
    found = {name: input_version(name, tree) for name, tree in trees.items()}
    return {name: version for name, version in found.items() if version}
