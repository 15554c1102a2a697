"""Slurm's way to write many nodes at once: `hpc-compute-[1-3,7]`."""

from __future__ import annotations

import re
from functools import lru_cache

# As many nodes as a lab has of one kind; a hostile file must not buy more.
MOST_NODES = 1000

_SPECIAL = frozenset("[],")
_PART = re.compile(r"[^,\[\]]*(?:\[[^\[\]]*\][^,\[\]]*)*")
_MOST_DIGITS = 6
_RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?\Z", re.ASCII)


@lru_cache(maxsize=64)
def expand_hostlist(text: str) -> tuple[str, ...]:
    """The names that a host list stands for, in its order; a plain name stands for itself.

    Args:
        text: names and bracketed ranges, separated by commas; numbers keep their leading zeros, as in Slurm.

    Raises:
        ValueError: it is no host list, or stands for more than `MOST_NODES` names; the message says which.
    """
    if text and not _SPECIAL & set(text):
        return (text,)
    names: list[str] = []
    position = 0
    while position <= len(text):
        match = _PART.match(text, position)
        part = match[0] if match else ""
        position += len(part)
        if not part or (position < len(text) and text[position] != ","):
            raise ValueError("it is no host list")
        names += _expanded(part)
        _require_few(len(names))
        position += 1
    return tuple(names)


def _expanded(part: str) -> list[str]:
    """The names of one part, such as `node[1-2]-[a]`."""
    found = [""]
    for index, piece in enumerate(re.split(r"\[([^\]]*)\]", part)):
        endings = _numbers(piece) if index % 2 else [piece]
        _require_few(len(found) * len(endings))
        found = [name + ending for name in found for ending in endings]
    return found


def _numbers(ranges: str) -> list[str]:
    """`1-3,007` -> `1`, `2`, `3`, `007`."""
    numbers: list[str] = []
    for each in ranges.split(","):
        match = _RANGE.match(each.strip())
        if match is None:
            raise ValueError(f"[{ranges}] is no range of numbers")
        if any(len(number or "") > _MOST_DIGITS for number in match.groups()):
            raise ValueError(f"a number of [{ranges}] has more than {_MOST_DIGITS} digits")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"{each.strip()} ends before it begins")
        _require_few(last - first + 1)
        numbers += [str(number).zfill(len(match[1])) for number in range(first, last + 1)]
    return numbers


def _require_few(count: int) -> None:
    if count > MOST_NODES:
        raise ValueError(f"it stands for more than {MOST_NODES} nodes")
