"""The files in which the labs of a host keep who has what: JSON with a version and a checksum.

A damaged one is noticed, moved aside, and written anew from the labs' records. The words for that are the ledgers' own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulator.core.errors import StateError
from emulator.core.fs import write_whole


def read_ledger(path: Path) -> Any:
    """The file's JSON value, which may be of any type.

    Raises:
        FileNotFoundError: there is no file.
        StateError: it cannot be read.
        ValueError: it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StateError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_ledger(path: Path, data: Mapping[str, object]) -> None:
    """Replace the file, with a checksum.

    Raises:
        StateError: it cannot be written.
    """
    text = json.dumps({**data, "sum": _checksum(data)}, indent=1, sort_keys=True)
    write_whole(path, text.encode() + b"\n")


def is_whole(data: Mapping[str, object]) -> bool:
    """Whether the content is what was written."""
    return data.get("sum") == _checksum(data)


def is_newer(data: Mapping[str, object], version: int) -> bool:
    """Whether a later version of the program wrote it. A flipped bit can change the version as well; the rest of the
    file then has this version's form."""
    found = data.get("version")
    return isinstance(found, int) and found > version and data.get("sum") != _checksum({**data, "version": version})


def move_aside(path: Path) -> Path:
    """Give a damaged file a second name, by its time; what takes its place is for the caller to write."""
    kept = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    kept.unlink(missing_ok=True)
    os.link(path, kept)
    return kept


def found_in(path: Path, pattern: str) -> tuple[str, ...]:
    """What the first group of a pattern finds in the file, however damaged that is; sorted.

    Raises:
        StateError: it cannot be read.
    """
    try:
        text = path.read_bytes().decode("ascii", "replace")
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise StateError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return tuple(sorted(set(re.findall(pattern, text))))


def _checksum(data: Mapping[str, object]) -> str:
    body = json.dumps({key: value for key, value in data.items() if key != "sum"}, sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]
