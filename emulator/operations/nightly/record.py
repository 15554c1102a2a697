"""The file that keeps what is known of a lab's nights, in the host's home."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from emulator.apply.ledger_file import is_whole, read_ledger, write_ledger
from emulator.core.errors import StateError
from emulator.core.fs import private_directory
from emulator.operations.nightly.model import Good, ImageFacts, PastNight, Record

FORMAT = 1
MOST_NIGHTS = 30


def read_nights(path: Path) -> Record:
    """What is kept; an empty record when nothing is.

    Raises:
        StateError: the file is damaged, or of a later version.
    """
    try:
        data = read_ledger(path)
    except FileNotFoundError:
        return Record()
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    try:
        if not isinstance(data, dict) or data.get("version") != FORMAT or not is_whole(data):
            raise _damaged(path, "its content is not what was written")
        return Record(
            good=_good(data["good"]) if data["good"] else None,
            made=tuple(str(name) for name in data["made"]),
            nights=tuple(_night(each) for each in data["nights"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, repr(error)) from error


def write_nights(path: Path, record: Record) -> None:
    """Raises: StateError when it cannot be written."""
    private_directory(path.parent)
    nights = [_plain(each) for each in record.nights[-MOST_NIGHTS:]]
    good = _plain(record.good) if record.good else None
    write_ledger(path, {"version": FORMAT, "good": good, "made": list(record.made), "nights": nights})


def _plain(value: Good | PastNight) -> dict[str, Any]:
    data = asdict(value)
    return {**data, "images": list(data["images"])} if "images" in data else data


def _good(data: Mapping[str, Any]) -> Good:
    images = tuple(
        ImageFacts(str(each["name"]), str(each["digest"]), {str(k): str(v) for k, v in each["packages"].items()})
        for each in data["images"]
    )
    return Good(str(data["lab"]), int(data["at"]), images)


def _night(data: Mapping[str, Any]) -> PastNight:
    phases = {str(name): float(seconds) for name, seconds in data["phases"].items()}
    return PastNight(int(data["at"]), bool(data["good"]), float(data["seconds"]), phases)


def _damaged(path: Path, why: str) -> StateError:
    return StateError(
        f"the record of nightly rebuilds cannot be used: {why}",
        where=str(path),
        fix="see which labs there are with `hyperscaler status`, destroy those of earlier nights, and remove the file",
    )
