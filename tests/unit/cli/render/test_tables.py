"""Tables: fixed columns for programs, fitted ones for people."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.cli.render.tables import Table, fitted, plain, show
from tests.support.waiting import PATIENCE

ROOT = Path(__file__).resolve().parents[4]
TABLE = Table(
    ("NAME", "WHAT", "SIZE"),
    [("a", "short", "1 GiB"), ("b-longer", "a cell that is much longer than a narrow terminal has columns", "")],
    {1: "it failed:\nsecond line"},
)


def bare(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_plain_table_has_one_line_for_a_row() -> None:
    assert plain(TABLE) == (
        "NAME      WHAT                                                           SIZE\n"
        "a         short                                                          1 GiB\n"
        "b-longer  a cell that is much longer than a narrow terminal has columns\n"
        "    it failed: second line"
    )


def test_without_a_heading_and_indented() -> None:
    assert plain(Table((), [("a", "bb"), ("ccc", "")], indent=2)) == "  a    bb\n  ccc"
    assert plain(Table(("A", "B"), [])) == "A  B"
    assert plain(Table((), [])) == ""


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_fitted_table_fits_and_loses_nothing(width: int) -> None:
    text = bare(fitted(TABLE, width))
    assert max(map(len, text.splitlines())) <= width
    letters = "".join(re.findall(r"\w", text))
    for word in ("cell", "SIZE", "GiB"):
        assert all(letter in letters for letter in word)
    whole = sorted("".join(cell for row in (TABLE.heading, *TABLE.rows) for cell in row).replace(" ", ""))
    note = sorted("itfailed:secondline")
    assert sorted(text.replace(" ", "").replace("\n", "")) == sorted(whole + note)
    assert "…" not in text


def test_a_note_stands_below_its_row_over_all_columns() -> None:
    rows = [("a", "x"), ("b", "y")]
    text = bare(fitted(Table(("NAME", "WHAT"), rows, {0: "it failed: one line"}), 40))
    assert [line.rstrip() for line in text.splitlines()] == [
        "NAME  WHAT",
        "a     x",
        "    it failed: one line",
        "b     y",
    ]


def test_what_a_row_is_about_stays_in_one_piece() -> None:
    text = bare(fitted(Table(("TIME", "WHAT"), [("2026-12-01 08:33:11", "many words " * 20)]), 80))
    assert "2026-12-01 08:33:11  many" in text


def test_control_characters_of_cells_do_not_get_through(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(("A", "B"), [("\x1b[31mred\x07", "x\ny"), ("[red]markup[/red]", "\x9b2J")], {0: "\x1b]0;title\x07"})
    show(table)
    for text in (capsys.readouterr().out, bare(fitted(table, 80))):
        assert all(letter == "\n" or letter.isprintable() for letter in text), text
        assert "x y" in text
        assert "[red]markup[/red]" in text


@pytest.mark.parametrize("words", [("history",), ("status",), ("image", "list"), ("--help",), ("--version",)])
def test_rich_is_imported_for_terminals_only(words: tuple[str, ...], tmp_path: Path) -> None:
    code = (
        "import sys; from emulator.cli import main\n"
        "try: main.main()\n"
        "except SystemExit: pass\n"
        "assert 'rich' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env={"HYPERSCALER_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
