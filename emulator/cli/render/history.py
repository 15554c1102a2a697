"""The history of a host as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from emulator.cli.output import say
from emulator.cli.render.tables import Table, plain, show
from emulator.operations.history import History, PastCommand

_HEAD = ("TIME (UTC)", "USER", "COMMAND", "LAB", "RESULT", "TOOK", "CHANGES")


def history_text(found: History, lab: str | None) -> str:
    """The history as it is written to a file or pipe: one line a command, what went wrong below it."""
    return "\n".join([plain(history_table(found))] * bool(found.commands) + _remarks(found, lab))


def print_history(found: History, lab: str | None) -> None:
    """The history on stdout."""
    if found.commands:
        show(history_table(found))
    for line in _remarks(found, lab):
        say(line)


def history_table(found: History) -> Table:
    """A row for each command."""
    rows = [_row(item) for item in found.commands]
    notes = {number: item.error.splitlines()[0] for number, item in enumerate(found.commands) if item.error}
    return Table(_HEAD, rows, notes)


def _remarks(found: History, lab: str | None) -> list[str]:
    lines = []
    if not found.commands:
        lines.append(f"Nothing was changed yet{f' on a lab {lab}' if lab else ' on this host'}.")
    if found.unreadable:
        lines.append(f"({found.unreadable} lines of the log cannot be read and were left out)")
    return lines


def _row(item: PastCommand) -> tuple[str, ...]:
    took = "" if item.seconds is None else f"{item.seconds:.0f} s"
    time = item.time.replace("T", " ").removesuffix("Z")
    details = " ".join(item.details.values())
    command = f"{item.command} {details}".strip()
    return (time, item.user, command, item.lab, item.result, took, _changes(item.changes))


def _changes(changes: Sequence[tuple[str, str]]) -> str:
    counted = Counter(action for action, _ in changes)
    return ", ".join(f"{number} {action}" for action, number in counted.items()) or "none"
