"""The processor time of a command with all its children, as a sign that it is at work."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")


def session_seconds(session: int, *, proc: Path = _PROC) -> float:
    """Processor seconds of the processes in the session, and of their children that have ended; 0 for none.

    A child that ended counts once its parent has waited for it. It is a sign of work and no account.
    """
    ticks = 0
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
    return ticks / os.sysconf("SC_CLK_TCK")
