"""Units. Memory is MiB and disk is GiB inside the program; files speak GB in the sense of GiB, as hypervisors do."""

from __future__ import annotations

MIB = 1024 * 1024
GIB = 1024 * MIB


def gib_to_mib(gib: float) -> int:
    """Whole MiB of a GiB figure such as 1.5."""
    return round(gib * 1024)


def natural(text: str) -> int | None:
    """The number that `text` spells in decimal, or None.

    `str.isdigit` alone accepts digits that `int` refuses, and `int` refuses numbers with thousands of digits.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


LINE_LIMIT = 4000
"""Characters of one line that are shown of text from outside."""


def printable(text: str, *, line_limit: int = LINE_LIMIT) -> str:
    """Text of a guest, a file, a driver or a program, made safe for a terminal and for a log.

    Control and escape characters, marks that turn the direction of writing, and all else that is not visible become the
    replacement character. Line breaks stay, tabs become blanks, and lines are cut after `line_limit` characters.
    """
    return "\n".join(_visible(line, line_limit) for line in text.replace("\r\n", "\n").split("\n"))


def _visible(line: str, limit: int) -> str:
    shown = line[:limit].replace("\t", "    ")
    if not shown.isprintable():
        shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown)
    left = len(line) - limit
    return f"{shown} ... ({left} more characters)" if left > 0 else shown


def human_bytes(count: int) -> str:
    """``1536 MiB`` -> ``1.5 GiB``: one decimal, binary prefixes."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def human_duration(seconds: float) -> str:
    """``75`` -> ``1m15s``; below a minute one decimal."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
