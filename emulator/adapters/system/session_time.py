"""What a command does, with all its children: a sign that it is at work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emulator.core.trust.processes import PROC, process_ids, stat_of


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


def work_of_session(session: int, *, proc: Path = PROC) -> SessionWork:
    """What the processes of the session have done, and whether one of them has something to do."""
    found = [each for pid in process_ids(proc=proc) if (each := stat_of(pid, proc=proc)) and each.session == session]
    return SessionWork(sum(each.seconds for each in found), any(each.state in ("R", "D") for each in found))
