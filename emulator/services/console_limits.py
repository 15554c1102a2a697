"""Keeps the console logs of a lab's guests short.

QEMU appends to them whatever its guest prints, without end. Each log that grows beyond the limit is cut in place; how
often they are looked at follows from how fast they grow.
"""

from __future__ import annotations

import argparse
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from emulator.core.console_log import cut_log
from emulator.core.units import human_bytes
from emulator.services.note import Note, stop_asked
from emulator.services.privileges import Capability, keep_only

LONGEST_PAUSE, SHORTEST_PAUSE = 1.0, 0.05
"""Seconds between two looks."""


class ConsoleLimits:
    """The logs in `directory`, which only its owner may change.

    Args:
        directory: of the lab's console logs.
        limit: bytes from which a log is cut.
        kept: bytes of its end that stay.
    """

    def __init__(self, directory: Path, *, limit: int, kept: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory, self._limit, self._kept, self._clock = directory, limit, kept, clock
        self._sizes: dict[str, int] = {}
        self._looked = clock()
        self.removed = 0
        self.failures: dict[str, str] = {}

    def look(self) -> float:
        """Cut what is too long; returns the seconds until the next look: a log is looked at again long before it can
        reach the limit at the rate of its growth."""
        now, found, pause = self._clock(), self._found(), LONGEST_PAUSE
        passed = max(now - self._looked, 0.001)
        self.failures = {}
        for name, size in found.items():
            grown = size - self._sizes.get(name, size)
            if size > self._limit:
                self._cut(name)
                found[name] = 0
            room = max(self._limit - found[name], 0)
            if grown > 0:
                pause = min(pause, room / (grown / passed) / 2)
        self._sizes, self._looked = found, now
        return max(pause, SHORTEST_PAUSE)

    def _found(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    if entry.name.endswith(".log") and stat.S_ISREG(status.st_mode):
                        sizes[entry.name] = status.st_size
        except FileNotFoundError:  # there is no guest yet, or a log went away
            return sizes
        return sizes

    def _cut(self, name: str) -> None:
        try:
            self.removed += cut_log(self._directory / name, limit=self._limit, kept=self._kept)
        except OSError as error:
            self.failures[name] = f"{name} cannot be cut: {error.strerror}"

    def text(self) -> str:
        """How things are, in words."""
        if self.failures:
            return "; ".join(list(self.failures.values())[:3])
        cut = f", {human_bytes(self.removed)} removed" if self.removed else ""
        return f"each console log is limited to {human_bytes(self._limit)}{cut}"


def main(argv: list[str]) -> int:
    """Run until it is asked to end."""
    parser = argparse.ArgumentParser(prog="console-limits")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--kept", type=int, required=True)
    wanted: Mapping[str, object] = vars(parser.parse_args(argv))
    keep_only((Capability.DAC_OVERRIDE, Capability.DAC_READ_SEARCH, Capability.SYS_RESOURCE))
    limits = ConsoleLimits(**wanted)  # type: ignore[arg-type]
    asked, note = stop_asked(), Note()
    pause = limits.look()
    note.say(limits.text())
    while not asked.wait(pause):
        pause = limits.look()
        note.say(limits.text())
    return 0
