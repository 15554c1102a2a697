"""Tables: aligned to the terminal's width where a person reads, stable columns everywhere else.

Without a terminal each row is one line, whole, its columns as wide as their widest cell and two blanks apart: what a
script or a test reads does not depend on the width of a window.
"""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emulator.cli.output import is_terminal, say, write
from emulator.core.units import printable

if TYPE_CHECKING:
    from rich.text import Text


_PRIVATE = 0xF0000
"""First of the characters that hold the place of notes. They are not printable, so that no cell has one."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text.

    Attributes:
        heading: names of the columns; empty for a table without any.
        rows: cells, as many in each row as there are columns. Line breaks in cells become blanks.
        notes: number of a row (from 0) -> a line that belongs below it.
        indent: blanks before each line.
    """

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Mapping[int, str] = field(default_factory=dict)
    indent: int = 0


def plain(table: Table) -> str:
    """The table for files, pipes and tests."""
    rows = [[_cell(cell) for cell in row] for row in table.rows]
    heading = [list(table.heading)] if table.heading else []
    widths = [max(map(len, column)) for column in zip(*heading, *rows, strict=True)]
    before = " " * table.indent
    lines = [before + _line(row, widths) for row in heading]
    for number, row in enumerate(rows):
        lines.append(before + _line(row, widths))
        if number in table.notes:
            lines.append(f"{before}    {_cell(table.notes[number])}")
    return "\n".join(lines)


def show(table: Table) -> None:
    """Print the table on stdout, in the form that suits it.

    Raises:
        OutputError: stdout is full or closed.
    """
    if is_terminal(sys.stdout):
        write(fitted(table, shutil.get_terminal_size((80, 24)).columns))
    else:
        say(plain(table))


def print_rich(text: Text) -> None:
    """Print text of rich on stdout: with its colours on a terminal, without them elsewhere.

    Raises:
        OutputError: stdout is full or closed.
    """
    text.plain = printable(text.plain.rstrip("\n"))  # character by character, so that the colours stay in their places
    if not is_terminal(sys.stdout):
        say(text.plain)
        return
    from rich.console import Console

    console = Console(file=io.StringIO(), force_terminal=True, highlight=False, soft_wrap=True)
    with console.capture() as captured:
        console.print(text)
    write(captured.get())


def fitted(table: Table, width: int) -> str:
    """The table for a terminal of so many columns: long cells go on in the next line, and nothing is cut off."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=bool(table.heading))
    for number, name in enumerate(table.heading or [""] * len(table.rows[0] if table.rows else ())):
        # What a row is about stays in one piece, unless it would push the rest away.
        whole = number == 0 and all(len(row[0]) <= width // 4 for row in table.rows)
        grid.add_column(name, header_style="bold", overflow="fold", no_wrap=whole)
    console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    places: dict[str, str] = {}
    for number, row in enumerate(table.rows):
        cells = [Text(_cell(cell)) for cell in row]
        if number in table.notes:
            places[chr(_PRIVATE + number)] = _cell(table.notes[number])
        grid.add_row(*cells)
        if number in table.notes:
            grid.add_row(chr(_PRIVATE + number))
    with console.capture() as captured:
        console.print(Padding(grid, (0, 0, 0, table.indent)) if table.indent else grid)
    return "".join(_with_note(line, places, table.indent + 4, width) for line in captured.get().splitlines(True))


def _with_note(line: str, places: Mapping[str, str], indent: int, width: int) -> str:
    """The line, or the note whose place it holds: in red, over all columns."""
    note = next((text for mark, text in places.items() if mark in line), None)
    if note is None:
        return line
    before = " " * indent
    lines = textwrap.wrap(note, width - indent, break_on_hyphens=False)
    return "".join(f"{before}\x1b[31m{part}\x1b[0m\n" for part in lines)


def _cell(text: str) -> str:
    return printable(" ".join(text.split("\n")))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
