"""Keeps a reserve of free space on the file system of a lab's disks.

Disks are thin, so a guest can fill the file system that all labs' journals are on. Below the reserve the lab's guests
that grow are paused, through libvirt, and go on once there is room again. QEMU itself answers such a request: one that
does not obey, or only says so, is stopped by the kernel, with everything else that runs as its user. If other programs
take the rest, a file that was allocated for this is given up, so that journals can still be written.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from emulator.core.errors import HyperscalerError, StateError
from emulator.core.paths import Home
from emulator.core.ports import DomainInfo
from emulator.core.trust.opening import open_own
from emulator.core.trust.users import let_users_go_on, stop_users, stopped_users
from emulator.core.units import MIB, human_bytes
from emulator.services.note import Note, stop_asked
from emulator.services.privileges import Capability, keep_only
from emulator.services.requests import Question, Requests
from emulator.services.reserve import Decision, GuestSeen, Memory, decide
from emulator.services.watched_guests import seen_guests, uids_of

LONGEST_PAUSE, SHORTEST_PAUSE = 1.0, 0.05
"""Seconds between two looks."""
_SELDOM = 60.0
"""Seconds between two looks which guests there are, far from the reserve."""
BALLAST = 16 * MIB
"""Bytes of the file that is given up last: some ten thousand lines of journals."""
_UNTRUE = "it grows although it is paused, and is not stopped by a signal either"


class Guests(Protocol):
    """The guests of one lab. May raise `HyperscalerError`."""

    def list(self) -> tuple[DomainInfo, ...]: ...

    def pause(self, name: str) -> None: ...

    def resume(self, name: str) -> None: ...


class Users(Protocol):
    """What runs as guests' users on this host; see `emulator.core.trust.users`."""

    def stop(self, uids: Collection[int]) -> frozenset[int]: ...

    def let_go_on(self, uids: Collection[int]) -> None: ...

    def stopped(self, uids: Collection[int]) -> frozenset[int]: ...


class HostUsers:
    """`Users` of this host."""

    stop = staticmethod(stop_users)
    let_go_on = staticmethod(let_users_go_on)
    stopped = staticmethod(stopped_users)


class DiskReserve:
    """One lab's part in keeping the reserve.

    Args:
        directory: on the file system that is watched.
        ballast: a file of the lab's own there.
        reserve: bytes that are to stay free.
        guests: of the lab.
        paused: guests that an earlier start has paused.
        remember: is given the guests that are paused for room, before that is done.
        free: bytes that are free in the directory; for tests, as are the clock, the requests, the question
            which guests there are, and the users.
    """

    def __init__(
        self,
        directory: Path,
        ballast: Path,
        reserve: int,
        guests: Guests,
        *,
        paused: frozenset[str] = frozenset(),
        remember: Callable[[frozenset[str]], None] = lambda _paused: None,
        free: Callable[[Path], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
        requests: Requests | None = None,
        listing: Question[tuple[DomainInfo, ...]] | None = None,
        users: Users | None = None,
    ) -> None:
        self._directory, self._ballast, self._reserve, self._guests = directory, ballast, reserve, guests
        self._requests, self._users = requests or Requests(), users or HostUsers()
        self._listing = listing or Question(guests.list)
        self._known: tuple[DomainInfo, ...] = ()
        self._stopped: frozenset[str] = frozenset()
        self._asked: frozenset[str] = frozenset()  # to pause, and no answer yet
        self._memory = Memory(paused=paused)
        self._remember = remember
        self._free, self._clock = free or _free, clock
        self._last: tuple[float, int] | None = None
        self._listed = self._clock()
        self.text = ""

    @property
    def paused(self) -> frozenset[str]:
        """Guests that are paused for want of room, or will be once they answer."""
        return self._memory.paused | self._asked

    def look(self) -> float:
        """Look once, and do what is to be done; returns the seconds until the next look."""
        free = self._free(self._directory)
        trouble = self._act(free)
        self._keep_ballast(free)
        self.text = self._words(free) + trouble
        return self._pause(free)

    def end(self) -> None:
        """Let guests go on that were stopped by a signal: unlike a pause, nobody else would know of it."""
        seen = seen_guests(self._known, self._users.stopped)
        self._users.let_go_on(uids_of(seen[name] for name in self.paused & seen.keys() if seen[name].stopped))

    def _pause(self, free: int) -> float:
        """Long before all is taken at the rate at which it is now."""
        now, (then, before) = self._clock(), self._last or (0.0, free)
        self._last = now, free
        rate = (before - free) / max(now - then, 0.001)
        if rate <= 0:
            return LONGEST_PAUSE
        room = free - self._reserve if free > self._reserve else free
        return max(min(LONGEST_PAUSE, room / rate / 2), SHORTEST_PAUSE)

    def _act(self, free: int) -> str:
        """What could not be done, in words."""
        if free >= 2 * self._reserve and not self.paused:
            self._memory = Memory()  # far from it: hundreds of guests need not be looked at each second
            if self._clock() - self._listed >= _SELDOM:
                self._list()  # in case that libvirt hangs when it matters
            return ""
        trouble = self._list()
        if trouble and not self._known:
            return f"; guests cannot be paused or resumed: {trouble}"
        seen = seen_guests(self._known, self._users.stopped if self.paused else None)
        waiting = self._requests.waiting
        self._asked = frozenset(name for name in self._asked & seen.keys() if name in waiting or seen[name].held)
        decision = decide(free, self._reserve, seen, dataclasses.replace(self._memory, paused=self.paused))
        self._memory = decision.memory
        self._asked -= decision.memory.paused
        if decision.pause or decision.stop:
            self._remember(self.paused)  # a guest that was paused and is not on the list would never go on
        go_on = {name for name in decision.resume if seen[name].stopped}
        self._users.let_go_on(uids_of(seen[name] for name in go_on))  # first: a stopped one answers no request
        failed = self._request(decision, seen, trouble)
        failed |= {name: _UNTRUE for name in decision.stop if seen[name].paused}
        self._stopped = self._signal(decision, seen, failed)
        failed = {name: why for name, why in failed.items() if name not in self._stopped}
        self._asked |= self._requests.waiting & {*decision.pause, *decision.resume}
        gone_on = set(decision.resume) - failed.keys()
        paused = self._memory.paused - gone_on - (set(decision.pause) & failed.keys())
        paused -= (set(decision.stop) & self._memory.others) - self._stopped  # nothing of theirs runs, or none obeys
        self._memory = dataclasses.replace(self._memory, paused=paused, others=self._memory.others & paused)
        if trouble:
            return f"; guests cannot be paused or resumed: {trouble}"
        return "".join(f"; {name} cannot be paused or resumed: {why}" for name, why in sorted(failed.items())[:3])

    def _list(self) -> str:
        """Look which guests there are; in words why they are taken to be those of the last look."""
        self._listed = self._clock()
        try:
            self._known = self._listing.answer()
        except HyperscalerError as error:
            return error.what.splitlines()[0]
        return ""

    def _request(self, decision: Decision, seen: Mapping[str, GuestSeen], trouble: str) -> dict[str, str]:
        """Pause and resume through libvirt; why some of it was not done, in words."""
        resume = [name for name in decision.resume if seen[name].paused and name not in self._memory.others]
        if trouble:
            return dict.fromkeys((*decision.pause, *resume), trouble)
        return self._requests.make(
            {name: functools.partial(self._guests.pause, name) for name in decision.pause}
            | {name: functools.partial(self._guests.resume, name) for name in resume}
        )

    def _signal(self, decision: Decision, seen: Mapping[str, GuestSeen], failed: Mapping[str, str]) -> frozenset[str]:
        """Stop by signal those that could not be paused; the stopped ones."""
        stopped = {name for name in self._memory.paused if seen[name].stopped}
        # Those that stand still, too: a process of theirs may have let the others go on.
        wanted = (stopped - set(decision.resume)) | (set(decision.pause) & failed.keys()) | set(decision.stop)
        still = self._users.stop(uids_of(seen[name] for name in wanted))
        return frozenset(name for name in wanted if seen[name].uid in still)

    def _keep_ballast(self, free: int) -> None:
        with contextlib.suppress(OSError, StateError):  # it is tried again at the next look
            if free < BALLAST:
                self._ballast.unlink(missing_ok=True)
            elif free >= self._reserve + BALLAST and not self._ballast.exists():
                _allocate(self._ballast)

    def _words(self, free: int) -> str:
        """How things are; figures only where they matter, since each new text is a line of the log."""
        reserve = human_bytes(self._reserve)
        why = f"because less than the reserve of {reserve} is free and their disks grow"
        stopped = self._memory.paused & self._stopped
        held = [
            f"{', '.join(sorted(names))}: {how}, {why}"
            for names, how in (
                (self._memory.paused - stopped, "paused"),
                (stopped, "stopped by a signal (their QEMU did not obey libvirt)"),
            )
            if names
        ]
        if held:
            return "; ".join(held)
        low = free < self._reserve
        return f"less than the reserve of {reserve} is free" if low else f"a reserve of {reserve} is kept free"


def _free(directory: Path) -> int:
    """Bytes that accounts other than root may take: QEMU's is one of them."""
    figures = os.statvfs(directory)
    return figures.f_bavail * figures.f_frsize


def _allocate(path: Path) -> None:
    descriptor = open_own(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.posix_fallocate(descriptor, 0, BALLAST)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def main(argv: list[str]) -> int:
    """Run until it is asked to end."""
    from emulator.wiring import guests_of_lab

    parser = argparse.ArgumentParser(prog="disk-reserve")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--hypervisor", required=True)
    parser.add_argument("--bytes", type=int, required=True)
    wanted = parser.parse_args(argv)
    keep_only((Capability.DAC_READ_SEARCH, Capability.KILL, Capability.SYS_RESOURCE))
    asked, note = stop_asked(), Note()
    paths = Home(wanted.home).lab(wanted.lab)
    before = note.before().get("paused", [])
    watch = DiskReserve(
        paths.root,
        paths.supervisor / "disk-reserve.ballast",
        wanted.bytes,
        guests_of_lab(wanted.home, wanted.lab, wanted.hypervisor),
        paused=frozenset(name for name in before if isinstance(name, str)) if isinstance(before, list) else frozenset(),
        remember=lambda paused: note.say(watch.text, {"paused": sorted(paused)}),
    )
    while True:
        pause = watch.look()
        note.say(watch.text, {"paused": sorted(watch.paused)})
        if asked.wait(pause):
            watch.end()
            return 0
