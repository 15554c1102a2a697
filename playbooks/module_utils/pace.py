"""How patient a module is on a node. Standard library only, because it runs in the guests.

Seconds in the modules are a fast host's. The run says what its host takes longer, as HYPERSCALER_PACE in the
environment of every task, and waits end for want of progress, as they do on the host (`emulator/core/waiting`).
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Hashable

MOST = 10.0
# Without progress for this part of the time that a wait has, it is given up; with progress after so many times as long.
QUIET, LONGEST = 0.25, 4
# Looks in a row without progress: a node that got no processor time for minutes has seen nothing.
LEAST_LOOKS = 3
# What programs of Kubernetes say of an answer that came too late, Go's words first, or not at all because the server
# was being started again.
TOO_SLOW = re.compile(
    r"Client\.Timeout|context deadline exceeded|request canceled|TLS handshake timeout|i/o timeout|unexpected EOF"
    r"|connection refused|connection reset by peer|etcdserver: (request timed out|leader changed|no leader)"
    r"|Timeout: request did not complete|currently unable to handle the request"
)


def factor(text: str) -> float:
    """The factor as the run gives it; 1 for anything that is none."""
    try:
        value = float(text)
    except ValueError:
        return 1.0
    return min(max(value, 1.0), MOST) if math.isfinite(value) else 1.0


def seconds(base: float) -> int:
    """What takes at most `base` seconds on a fast host, on this one; whole seconds."""
    return math.ceil(base * factor(os.environ.get("HYPERSCALER_PACE", "1")))


class Watch:
    """One wait, which has `base` seconds, and longer while its sign changes."""

    def __init__(self, base: float, now: Callable[[], float] | None = None) -> None:
        self.base, self.now = base, now or time.monotonic
        self.started = self.moved = self.now()
        self.sign: Hashable = None
        self.still = 0

    def over(self, sign: Hashable) -> str:
        """Note what is seen now; nothing as long as the wait goes on, else how long it was."""
        now = self.now()
        if sign != self.sign:
            self.sign, self.moved, self.still = sign, now, 0
        else:
            self.still += 1
        spent, quiet = now - self.started, now - self.moved
        if spent >= self.base and quiet >= seconds(self.base) * QUIET and self.still >= LEAST_LOOKS:
            return f"after {spent:.0f} s, the last {quiet:.0f} s of them without progress"
        if spent >= seconds(self.base) * LONGEST:
            return f"after {spent:.0f} s, although there still was progress"
        return ""
