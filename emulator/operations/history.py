"""Who changed what on this host, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emulator.apply.audit import AuditLog
from emulator.core.trust.identity import ProcessIdentity
from emulator.core.units import printable
from emulator.lab.environment import Environment

RUNNING, CUT_OFF = "running", "did not end"


@dataclass(frozen=True, slots=True)
class PastCommand:
    """One command that changed something. `result`: done, failed, interrupted, aborted, running or did not end."""

    time: str
    user: str
    command: str
    lab: str
    result: str
    exit_code: int | None
    seconds: float | None
    changes: tuple[tuple[str, str], ...]
    error: str
    details: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "time": self.time,
            "user": self.user,
            "command": self.command,
            "lab": self.lab,
            "result": self.result,
            "exit_code": self.exit_code,
            "seconds": self.seconds,
            "changes": [{"action": action, "id": resource} for action, resource in self.changes],
            "error": self.error,
            **({"details": dict(self.details)} if self.details else {}),
        }


@dataclass(frozen=True, slots=True)
class History:
    """Commands, oldest first; `unreadable` lines of the log were left out."""

    commands: tuple[PastCommand, ...]
    unreadable: int

    def to_json(self) -> dict[str, Any]:
        return {"version": 1, "commands": [item.to_json() for item in self.commands], "unreadable": self.unreadable}


_KNOWN = frozenset({"version", "time", "id", "event", "result", "exit_code", "error", "changes", "seconds"})


def history(env: Environment, lab: str | None, *, last: int) -> History:
    """The `last` commands that changed a lab, or any lab; labs that are gone included.

    Raises:
        StateError: the log cannot be read.
    """
    entries, unreadable = AuditLog(env.home.audit).read()
    begins: dict[str, Mapping[str, Any]] = {}
    ends: dict[str, Mapping[str, Any]] = {}
    for entry in entries:
        (begins if entry.get("event") == "begin" else ends)[str(entry["id"])] = entry
    wanted = [key for key, begin in begins.items() if lab is None or begin.get("lab") == lab]
    wanted = wanted[-last:] if last > 0 else wanted
    return History(tuple(_past_command(begins[key], ends.get(key)) for key in wanted), unreadable)


def _past_command(begin: Mapping[str, Any], end: Mapping[str, Any] | None) -> PastCommand:
    closing: Mapping[str, Any] = end if end is not None else {"result": _unended(begin)}
    code = closing.get("exit_code")
    return PastCommand(
        time=_text(begin, "time", "?"),
        user=_who(begin),
        command=_text(begin, "command", "?"),
        lab=_text(begin, "lab", "?"),
        result=_text(closing, "result", "?"),
        exit_code=code if type(code) is int else None,
        seconds=_seconds(closing.get("seconds")),
        changes=_changes(closing.get("changes")),
        error=_text(closing, "error"),
        details={_line(key): _text(closing, key) for key in closing if key not in _KNOWN},
    )


def _who(begin: Mapping[str, Any]) -> str:
    """`mira (as root)` of a user who logged in, by the kernel's word; sudo's word is marked as such."""
    user = _text(begin, "user", "?")
    effective, claimed = _text(begin, "as", user), _text(begin, "sudo_user")
    notes = [f"as {effective}"] if effective != user else []
    if claimed and claimed != user:
        notes.append(f"SUDO_USER claims {claimed}")
    return f"{user} ({'; '.join(notes)})" if notes else user


def _text(entry: Mapping[str, Any], key: str, default: str = "") -> str:
    """What the log says, fit for a terminal and for JSON: a user who can write to the log can write anything."""
    value = printable(str(entry.get(key) or default))
    return value if key == "error" else _line(value)


def _line(text: str) -> str:
    return printable(text).replace("\n", " ")


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        return None
    return float(value)


def _changes(value: object) -> tuple[tuple[str, str], ...]:
    items = value if isinstance(value, list) else []
    return tuple((_text(item, "action", "?"), _text(item, "id", "?")) for item in items if isinstance(item, dict))


def _unended(begin: Mapping[str, Any]) -> str:
    process = ProcessIdentity.read(begin)
    return RUNNING if process is not None and process.lives() else CUT_OFF
