"""Whether the nodes have the host's time.

A node is asked by ssh, which takes from milliseconds to many seconds, and it is not known when within these the node
read its clock. So a clock is judged by what the round trip allows: it is wrong when no moment between question and
answer fits, and how far it is off is known to the length of the round trip.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from emulator.core.errors import HyperscalerError
from emulator.core.pool import threads
from emulator.core.ports import GuestAddress, GuestShell
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Clock, Look, Patience, wait_until
from emulator.guests.verify.report import CheckResult, Verdict, check_from

ALLOWED_SECONDS = 2.5
"""A node sets its clock when it is two seconds apart from its real-time clock, which counts whole seconds."""

SETTLE_SECONDS = 60.0
"""A node looks at its clock every 20 seconds; one that was paused is right again within that."""

POLL_SECONDS = 5.0
_WORKERS = 8
_ASK = "date +%s.%N"
_ANSWER = re.compile(r"[0-9]{1,12}\.[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Skew:
    """By how many seconds a node's clock is ahead of the host's: at least `least` and at most `most`."""

    least: float
    most: float

    @property
    def distance(self) -> float:
        """By how much it is off at least, either way."""
        return max(self.least, -self.most, 0.0)

    def __str__(self) -> str:
        middle, round_trip = (self.least + self.most) / 2, self.most - self.least
        way = "ahead of" if middle > 0 else "behind"
        return f"{abs(middle):.1f} s {way} the host (to within {round_trip / 2:.1f} s, by the round trip)"


def skew_of(asked: float, said: float, answered: float) -> Skew:
    """The node's clock `said` so at some moment between the host's `asked` and `answered`, seconds since the epoch."""
    return Skew(said - answered, said - asked)


@dataclass(frozen=True, slots=True)
class _Times:
    """The host's clock, and the clock of waits."""

    wall: Callable[[], float] = field(default=time.time)
    clock: Clock = field(default_factory=Clock)


def verify_clocks(
    shell: GuestShell,
    guests: Sequence[GuestAddress],
    *,
    pace: Pace,
    on_check: Callable[[CheckResult], None] | None = None,
    wall: Callable[[], float] = time.time,
    clock: Clock | None = None,
) -> tuple[CheckResult, ...]:
    """One check for each node: that its clock is the host's.

    Args:
        shell: runs commands in the guests.
        guests: the nodes.
        pace: of this host.
        on_check: called with each check when it is done.
        wall: the host's clock, seconds since the epoch.
        clock: of the wait for one that is wrong.
    """
    times = _Times(wall, clock or Clock())
    with threads(_WORKERS, "clocks") as pool:
        checks = []
        for check in pool.map(lambda guest: _check(shell, guest, pace, times), guests):
            checks.append(check)
            if on_check is not None:
                on_check(check)
    return tuple(checks)


def _check(shell: GuestShell, guest: GuestAddress, pace: Pace, times: _Times) -> CheckResult:
    """A clock that is wrong is looked at again: the node may be just about to set it."""

    def look() -> Look[Verdict]:
        verdict = _ask(shell, guest, times.wall)
        return Look(verdict, verdict.ok, pause=POLL_SECONDS)

    settle = pace.seconds(SETTLE_SECONDS)
    waited = wait_until(look, Patience(usual=settle, quiet=0.0, longest=settle), clock=times.clock)
    return check_from(f"clock {guest.name}", waited.value, waited.seconds)


def _ask(shell: GuestShell, guest: GuestAddress, wall: Callable[[], float]) -> Verdict:
    asked = wall()
    try:
        said = shell.run(guest, _ASK, timeout=60).stdout.strip()
    except HyperscalerError as error:
        return Verdict(False, f"the node does not answer: {error.what}")
    answered = wall()
    if not _ANSWER.fullmatch(said):
        return Verdict(False, f"the node does not say its time, but {said[:100]!r}")
    if answered < asked:
        return Verdict(False, "the host's own clock was set back meanwhile; verify again")
    return judge(skew_of(asked, float(said), answered))


def judge(skew: Skew) -> Verdict:
    """Wrong only when no moment of the round trip is within the allowed distance."""
    if skew.distance <= ALLOWED_SECONDS:
        return Verdict(True, str(skew))
    return Verdict(
        False,
        f"{skew}, and was not set right: on the node, `systemctl status hyperscaler-clock.timer` says why (it sets the"
        " clock from the real-time clock, also after a pause; `sudo systemctl start hyperscaler-clock` does it now)",
    )
