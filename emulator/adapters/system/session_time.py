"""What a command does, with all its children: a sign that it is at work."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class SessionWork:
    """The processes of a session at one moment.

    Attributes:
        seconds: of processor time, also of children that have ended. A child counts once its parent has waited for it:
            it is a sign of work and no account.
        wants: whether one of them wants a processor or waits for a disk, which on a busy host it may do for long.
    """

    seconds: float
    wants: bool


def work_of_session(session: int, *, proc: Path = _PROC) -> SessionWork:
    """What the processes of the session have done, and whether one of them has something to do."""
    ticks, wants = 0, False
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended meanwhile
            continue
        # proc(5): the name, in brackets, may hold anything; then state, parent, group, session, and from the twelfth
        # on user and system time, both also of children that were waited for.
        fields = text.rpartition(")")[2].split()
        if len(fields) > 14 and fields[3] == str(session):
            ticks += sum(int(field) for field in fields[11:15])
            wants = wants or fields[0] in ("R", "D")
    return SessionWork(ticks / os.sysconf("SC_CLK_TCK"), wants)
