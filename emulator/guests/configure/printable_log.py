"""Makes Ansible's log safe to read on a terminal."""

from __future__ import annotations

from pathlib import Path

from emulator.core.fs import replacing
from emulator.core.units import MIB, printable

LOG_LIMIT = 64 * MIB
"""Characters of a log that are kept. A full run of the demo lab writes some 100 KiB."""
_PIECE = 64 * 1024


def make_log_printable(log: Path) -> None:
    """Rewrite the log of an ended run (0600, at once): results of tasks are in it, and guests choose what these say.

    Escape sequences are replaced and long lines are cut, as everywhere; what exceeds `LOG_LIMIT` is left out.
    """
    try:
        source = log.open(encoding="utf-8", errors="replace", newline="\n")
    except FileNotFoundError:
        return  # the run ended before Ansible began
    with source, replacing(log) as target:
        left = LOG_LIMIT
        # Bounded reads, since a line may have no end.
        while left > 0 and (piece := source.readline(_PIECE)):
            left -= len(piece)
            target.write(printable(piece).encode(errors="replace"))
        if left <= 0:
            target.write(b"\n... the rest is left out\n")
