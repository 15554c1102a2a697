"""Text for a terminal, broken between words: a terminal itself breaks lines wherever its last column is."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

_MOST_HANG = 2
"""Blanks by which what goes on in the next line is set in, beyond the line's own beginning."""
_KEPT = "\N{NO-BREAK SPACE}"


def wrapped(texts: Sequence[str], width: int, whole: Sequence[bool] = ()) -> list[list[tuple[int, str]]]:
    """Lines of at most `width` columns, each in pieces: the number of the text that a piece is of, and the piece.

    Words are never broken, and neither are lines that begin with `fix:`, which are there to be copied: they may be
    longer.

    Args:
        texts: what follows each other; line breaks stay.
        width: columns of the terminal.
        whole: which of the texts are to stay in one line, such as commands; all others are broken at blanks.
    """
    plain = "".join(texts)
    kept = [*whole, *(False,) * (len(texts) - len(whole))]
    # Of the same length, so that places in it are places in the texts.
    shown = "".join(text.replace(" ", _KEPT) if keep else text for text, keep in zip(texts, kept, strict=True))
    owners = [number for number, text in enumerate(texts) for _ in text]
    lines: list[list[tuple[int, str]]] = []
    begin = 0
    for line in shown.split("\n"):
        for indent, start, end in _pieces(line, width):
            first = owners[begin + start] if begin + start < len(owners) else 0
            pieces = [(first, " " * indent)] if indent else []
            lines.append(pieces + list(_by_owner(plain, owners, begin + start, begin + end)))
        begin += len(line) + 1
    return lines


def _pieces(line: str, width: int) -> Iterator[tuple[int, int, int]]:
    """Blanks to be put before each piece of a line, and where the piece begins and ends in it."""
    text = line.lstrip(" ")
    before = len(line) - len(text)
    if len(line) <= width or text.startswith("fix:"):
        yield 0, 0, len(line)
        return
    hang = before + _MOST_HANG
    broken = textwrap.wrap(
        text,
        max(width - hang, 1),
        initial_indent="",
        expand_tabs=False,
        replace_whitespace=False,
        break_long_words=False,
        break_on_hyphens=False,
    )
    place = before
    for number, piece in enumerate(broken):
        start = line.index(piece, place)
        place = start + len(piece)
        yield (before if number == 0 else hang), start, place


def _by_owner(plain: str, owners: Sequence[int], start: int, end: int) -> Iterator[tuple[int, str]]:
    while start < end:
        stop = start
        while stop < end and owners[stop] == owners[start]:
            stop += 1
        yield owners[start], plain[start:stop]
        start = stop
