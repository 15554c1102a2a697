"""What the host keeps of an exercise that a student has begun: when, and how many hints were given."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import StateError
from emulator.core.fs import private_directory, write_private

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Begun:
    """`started`: seconds since the epoch."""

    started: int
    hints: int = 0


def record_path(directory: Path, exercise: str, user: str) -> Path:
    """The file of one exercise and user in the lab's directory for them; both names are checked by those who call."""
    return directory / f"{exercise}.{user}.json"


def read_record(path: Path) -> Begun | None:
    """None when the exercise was not begun.

    Raises:
        StateError: the file is damaged, or of a later version.
    """
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(data, dict) or data.get("version") != FORMAT:
        raise _damaged(path, "it is not of this version")
    started, hints = data.get("started"), data.get("hints")
    if not isinstance(started, int) or not isinstance(hints, int):
        raise _damaged(path, "it lacks numbers")
    return Begun(started, hints)


def write_record(path: Path, begun: Begun) -> None:
    private_directory(path.parent)
    text = json.dumps({"version": FORMAT, "started": begun.started, "hints": begun.hints})
    write_private(path, text.encode() + b"\n")


def _damaged(path: Path, why: str) -> StateError:
    return StateError(
        f"the record of an exercise cannot be used: {why}",
        where=str(path),
        fix="remove the file; `hyperscaler exercise start` begins anew",
    )
