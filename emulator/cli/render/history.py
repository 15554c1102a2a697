"""The history of a host as a table. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from emulator.operations.history import History, PastCommand

_HEAD = ("TIME (UTC)", "USER", "COMMAND", "LAB", "RESULT", "TOOK", "CHANGES")


def history_text(found: History, lab: str | None) -> str:
    """One line a command, what went wrong below it."""
    lines = []
    if found.commands:
        rows = [_HEAD, *(_row(item) for item in found.commands)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        lines.append(_line(_HEAD, widths))
        for item, row in zip(found.commands, rows[1:], strict=True):
            lines.append(_line(row, widths))
            if item.error:
                lines.append(f"    {item.error.splitlines()[0]}")
    else:
        lines.append(f"Nothing was changed yet{f' on a lab {lab}' if lab else ' on this host'}.")
    if found.unreadable:
        lines.append(f"({found.unreadable} lines of the log cannot be read and were left out)")
    return "\n".join(lines)


def _row(item: PastCommand) -> tuple[str, ...]:
    took = "" if item.seconds is None else f"{item.seconds:.0f} s"
    time = item.time.replace("T", " ").removesuffix("Z")
    details = " ".join(item.details.values())
    command = f"{item.command} {details}".strip()
    return (time, item.user, command, item.lab, item.result, took, _changes(item.changes))


def _changes(changes: Sequence[tuple[str, str]]) -> str:
    counted = Counter(action for action, _ in changes)
    return ", ".join(f"{number} {action}" for action, number in counted.items()) or "none"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
