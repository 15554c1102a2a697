"""How long each step took the last time on this host, so that a slow one can say what to expect."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emulator.core.errors import HyperscalerError
from emulator.core.fs import write_whole
from emulator.core.ports import log
from emulator.core.progress import Event, Status

FORMAT = 1
MOST = 2000
"""Steps that are remembered; the oldest go first."""
_LEAST_SECONDS = 1.0


@dataclass(slots=True)
class Timings:
    """Seconds by step, kept in one small file. A file that is damaged or cannot be written costs nothing but the hints.

    Args:
        path: the file; None remembers nothing.
    """

    path: Path | None
    _known: dict[str, float] = field(default_factory=dict)
    _began: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict)

    def load(self) -> None:
        """Read what earlier runs have left."""
        if self.path is None:
            return
        try:
            self._known = dict(_read(json.loads(self.path.read_bytes())))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            log.debug("%s is not readable, so that no step says how long it took last time: %s", self.path, error)

    def last(self, event: Event) -> float | None:
        """Seconds that the step of this event took the last time, None where that is not known."""
        return self._known.get(_key(event))

    def take(self, event: Event, now: float) -> None:
        """Note an event: a step ends when its subject goes on to another one, or ends well itself."""
        place = (event.phase, event.subject)
        key = _key(event)
        earlier = self._began.get(place)
        ended_well = event.status not in (Status.FAILED, Status.SKIPPED)
        if earlier is not None and earlier[0] != key and ended_well:
            self._note(earlier[0], now - earlier[1])
        if event.status in (Status.DONE, Status.FAILED, Status.SKIPPED):
            self._began.pop(place, None)
        elif earlier is None or earlier[0] != key:
            self._began[place] = (key, now)

    def _note(self, key: str, seconds: float) -> None:
        self._known.pop(key, None)  # what is noted last comes last
        if seconds >= _LEAST_SECONDS:
            self._known[key] = round(seconds, 1)

    def save(self) -> None:
        """Keep what was noted for the next run."""
        if self.path is None or not self.path.parent.is_dir():
            return
        kept = dict(list(self._known.items())[-MOST:])
        try:
            write_whole(self.path, json.dumps({"format": FORMAT, "seconds": kept}).encode())
        except HyperscalerError as error:
            log.debug("%s", error)


def _key(event: Event) -> str:
    return f"{event.phase}/{event.subject}/{event.step}"[:200]


def _read(data: Mapping[str, Any]) -> list[tuple[str, float]]:
    if data["format"] != FORMAT:
        return []
    found = [(str(key), value) for key, value in data["seconds"].items()]
    return [(key, float(value)) for key, value in found if isinstance(value, int | float) and math.isfinite(value)]
