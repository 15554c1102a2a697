"""Tables: aligned to the terminal's width where a person reads, stable columns everywhere else.

Without a terminal each row is one line, whole, its columns as wide as their widest cell and two blanks apart: what a
script or a test reads does not depend on the width of a window.
"""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emulator.cli.output import is_terminal, say, write
from emulator.core.units import printable

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text.

    Attributes:
        heading: names of the columns; empty for a table without any.
        rows: cells, as many in each row as there are columns. Line breaks in cells become blanks.
        notes: number of a row (from 0) -> a line that belongs below it.
        note_column: the column below which it goes where columns are fitted to a terminal.
        indent: blanks before each line.
    """

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Mapping[int, str] = field(default_factory=dict)
    note_column: int = 0
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
    for name in table.heading or [""] * len(table.rows[0] if table.rows else ()):
        grid.add_column(name, header_style="bold", overflow="fold")
    console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    for number, row in enumerate(table.rows):
        cells = [Text(_cell(cell)) for cell in row]
        if number in table.notes:
            cells[table.note_column].append(f"\n{_cell(table.notes[number])}", style="red")
        grid.add_row(*cells)
    with console.capture() as captured:
        console.print(Padding(grid, (0, 0, 0, table.indent)) if table.indent else grid)
    return captured.get()


def _cell(text: str) -> str:
    return printable(" ".join(text.split("\n")))


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
