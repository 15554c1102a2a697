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


def printable(text: str) -> str:
    """The text with every character replaced that could control a terminal or cannot be encoded; line breaks stay."""
    return "".join(letter if letter == "\n" or letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


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
