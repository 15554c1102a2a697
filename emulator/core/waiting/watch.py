"""Waits that end for want of progress, not for want of speed.

Something that takes long on a busy host is not broken. So a wait has a *sign*: any value that changes while there is
progress (the size of a console log, the processor time of a guest, the text of an answer). It is given up when the sign
has stood still for too long, and at a bound that is generous enough to be met by what never ends alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from emulator.core.stop import StopFlag

LEAST_LOOKS = 3
"""Looks in a row that must have seen no progress: a program that got no processor time for minutes saw nothing at all,
which says nothing of what it waits for."""

_WORKING = 0.08
"""The share of one core, over the quiet time, above which something works. An emulated guest that idles takes two to
four hundredths; one that boots next to ten others on two cores gets more than a tenth."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clock:
    """Time for a wait, in seconds; tests pass their own."""

    now: Callable[[], float] = field(default=time.monotonic)
    sleep: Callable[[float], object] = field(default=time.sleep)


@dataclass(frozen=True, slots=True)
class Patience:
    """When a wait is given up, in seconds.

    Attributes:
        usual: it is never given up before.
        quiet: without progress for so long, after the usual time.
        longest: with progress, too.
    """

    usual: float
    quiet: float
    longest: float

    def steps(self, cpu_seconds: float) -> int:
        """Processor time as a sign of progress: it moves on for what works, and hardly for what is idle."""
        return math.floor(cpu_seconds / max(_WORKING * self.quiet, 0.01))

    @staticmethod
    def within(seconds: float) -> Patience:
        """At least `seconds`, a quarter of them without progress, and four times as many in all."""
        return Patience(usual=seconds, quiet=seconds / 4, longest=seconds * 4)


@dataclass(frozen=True, slots=True)
class GivenUp:
    """A wait that was given up: after how many seconds, and how many of them, at the end, saw no progress."""

    seconds: float
    quiet: float
    moving: bool

    def __str__(self) -> str:
        if self.moving:
            return f"after {self.seconds:.0f} s, although there still was progress"
        return f"after {self.seconds:.0f} s, the last {self.quiet:.0f} s of them without progress"


class Watch:
    """One wait, for callers that have a loop of their own: they say what they see, and hear whether to go on."""

    def __init__(self, patience: Patience, now: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._now = now
        self._started = self._moved = now()
        self._sign: Hashable = None
        self._still = 0

    @property
    def seconds(self) -> float:
        """Since the wait began."""
        return self._now() - self._started

    def look(self, sign: Hashable) -> GivenUp | None:
        """Note what is seen now; None as long as the wait goes on."""
        now = self._now()
        if sign != self._sign:
            self._sign, self._moved, self._still = sign, now, 0
        else:
            self._still += 1
        seconds, quiet, patience = now - self._started, now - self._moved, self._patience
        if seconds >= patience.usual and quiet >= patience.quiet and self._still >= LEAST_LOOKS:
            return GivenUp(seconds, quiet, moving=False)
        if seconds >= patience.longest:
            return GivenUp(seconds, quiet, moving=quiet < patience.quiet)
        return None


@dataclass(frozen=True, slots=True)
class Look(Generic[T]):
    """What one look has seen.

    Attributes:
        value: what the wait is for, as it is now.
        done: whether it is there.
        sign: differs from the last look's when there was progress.
        pause: seconds until the next look.
    """

    value: T
    done: bool
    sign: Hashable = None
    pause: float = 2.0


@dataclass(frozen=True, slots=True)
class Waited(Generic[T]):
    """The end of a wait: the last value, the seconds, and why it was given up. After a stop request it is neither done
    nor given up."""

    value: T
    done: bool
    seconds: float
    given_up: GivenUp | None = None


def wait_until(
    look: Callable[[], Look[T]], patience: Patience, *, clock: Clock | None = None, stop: StopFlag | None = None
) -> Waited[T]:
    """Look again and again until it is done, given up, or a stop is asked for. It is looked at once in any case."""
    stop = stop or StopFlag()
    # A stop request ends a pause; on a clock of the caller's own, it is noticed after it.
    clock = clock or Clock(sleep=stop.wait)
    watch = Watch(patience, clock.now)
    while True:
        seen = look()
        if seen.done:
            return Waited(seen.value, done=True, seconds=watch.seconds)
        if given_up := watch.look(seen.sign):
            return Waited(seen.value, done=False, seconds=given_up.seconds, given_up=given_up)
        clock.sleep(seen.pause)
        if stop.is_set():
            return Waited(seen.value, done=False, seconds=watch.seconds)
