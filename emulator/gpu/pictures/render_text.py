"""GPUs in the terminal: one strip of blocks over the memory slices each, in colour or in plain ASCII."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emulator.gpu.pictures.picture import GpuPicture, Segment, SegmentKind

if TYPE_CHECKING:
    from rich.text import Text

_CELL = 11  # columns of one memory slice, including its right border, where there is room
_LEAST_CELL = 6
_COLOURS = ("cyan", "green", "magenta", "blue", "bright_red", "bright_cyan", "bright_green", "bright_magenta")
_QUIET = {SegmentKind.STANDING: "yellow", SegmentKind.FREE: "bright_black", SegmentKind.STRANDED: "red"}


def render_text(pictures: Sequence[GpuPicture], *, ascii_only: bool = False, columns: int | None = None) -> Text:
    """All GPUs, one below the other. `.plain` of the result has no control sequences.

    With `ascii_only` the lines are drawn with `+-|`, otherwise with box-drawing characters. Slices are drawn narrower
    where the GPU with the most of them would not fit into so many `columns`.
    """
    from rich.text import Text  # only drawing needs it, while planning imports this package

    colours = holder_colours(pictures)
    cell = _cell(pictures, columns)
    text = Text()
    for n, picture in enumerate(pictures):
        if n:
            text.append("\n")
        _gpu(text, picture, colours, cell, ascii_only=ascii_only)
    return text


def _cell(pictures: Sequence[GpuPicture], columns: int | None) -> int:
    if columns is None:
        return _CELL
    most = max((picture.slices for picture in pictures), default=1)
    return max(_LEAST_CELL, min(_CELL, (columns - 1) // most))


def holder_colours(pictures: Sequence[GpuPicture]) -> dict[str, int]:
    """A number for each node (the part of a holder before `/`), in order of appearance: equal colour, equal node."""
    colours: dict[str, int] = {}
    for picture in pictures:
        for segment in picture.segments:
            if segment.kind in (SegmentKind.ASSIGNED, SegmentKind.WHOLE):
                colours.setdefault(node_name(segment.holder), len(colours))
    return colours


def node_name(holder: str) -> str:
    return holder.rpartition("/")[0] or holder


def _gpu(text: Text, picture: GpuPicture, colours: dict[str, int], cell: int, *, ascii_only: bool) -> None:
    line, side = ("-", "|") if ascii_only else ("─", "│")
    corners = ("+", "+", "+") if ascii_only else ("┌", "┬", "┐")
    floor = ("+", "+", "+") if ascii_only else ("└", "┴", "┘")
    text.append(_shown(picture.title) + "\n", style="bold")
    widths = [_width(picture, segment, cell) for segment in picture.segments]
    text.append(corners[0] + corners[1].join(line * width for width in widths) + corners[2] + "\n")
    for row in _rows(picture):
        text.append(side)
        for segment, width, words in zip(picture.segments, widths, row, strict=True):
            text.append(_fit(words, width), style=_style(segment, colours))
            text.append(side)
        text.append("\n")
    text.append(floor[0] + floor[1].join(line * width for width in widths) + floor[2] + "\n")
    text.append(" " + "".join(f"{_index(picture, n):<{cell}}" for n in range(picture.slices)).rstrip() + "\n", "dim")
    rest = f"can still be created: {picture.creatable}" if picture.creatable else "nothing more can be created"
    text.append(rest + "\n", style="dim")
    if any(segment.kind is SegmentKind.STRANDED for segment in picture.segments):
        text.append("stranded: memory that no further slice can use\n", style="dim")


def _index(picture: GpuPicture, n: int) -> str:
    return str(n) if picture.slices > 1 else ""


def _width(picture: GpuPicture, segment: Segment, cell: int) -> int:
    cells = segment.end - segment.start
    return (cells * cell if picture.slices > 1 else 4 * cell) - 1


def _rows(picture: GpuPicture) -> tuple[list[str], list[str]]:
    names = {SegmentKind.FREE: "free", SegmentKind.STRANDED: "stranded"}
    first = [names.get(segment.kind, segment.label) for segment in picture.segments]
    second = [
        node_name(segment.holder) or ("in place" if segment.kind is SegmentKind.STANDING else "")
        for segment in picture.segments
    ]
    return first, second


def _style(segment: Segment, colours: dict[str, int]) -> str:
    if segment.kind in _QUIET:
        return _QUIET[segment.kind]
    return f"black on {_COLOURS[colours[node_name(segment.holder)] % len(_COLOURS)]}"


def _fit(words: str, width: int) -> str:
    shown = _shown(words)
    return f"{shorten(shown, width, '~'):<{width}}"


def shorten(words: str, width: int, mark: str) -> str:
    """At most `width` characters. The middle is left out: the start says what it is, and the end is its number."""
    if len(words) <= width:
        return words
    tail = (width - 1) * 2 // 3
    return words[: width - 1 - tail] + mark + words[len(words) - tail :]


def _shown(words: str) -> str:
    """The words without control characters, because names come from files."""
    return "".join(char if char.isprintable() else "?" for char in words)
