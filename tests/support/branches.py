"""A command that runs once, and branches of it that meet a fault: one for each place and each fault that is to be met.

To run the command anew up to every place would repeat, each time, all that leads there. A branch is a copy of the
process (a fork) that stands at the place already, and goes on from there to the command's end. Then the original puts
the machine as it was before, and goes on itself. Places are the stop points, where the program has no file half
written: a file that is put back is another one, and who has the old one open writes into the void.
"""

from __future__ import annotations

import fcntl
import gc
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NoReturn

from emulator.core.errors import HyperscalerError
from tests.support.cheap_forks import use_huge_pages
from tests.support.lossy_disk import FullDisk
from tests.support.simulated_world import SimulatedHost, Snapshot
from tests.support.stop_points import Killed, PowerCut, Stops, hooked, key_of

ENDED, TOLD, CUT, FAULT, KILLED = "ended", "told", "cut", "fault", "killed"
"""How a branch can come to its end: the command ended well, by an error of ours, by a `PowerCut`, by anything else, or
its process was killed."""


def _unlocking(close: Callable[[int], None]) -> Callable[[int], None]:
    """A branch shares the locks that are held where it begins: they would outlast its `close` as long as the original
    has them open. What the original does with such a lock later is to close it, too."""

    def unlock_and_close(descriptor: int) -> None:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        close(descriptor)

    return unlock_and_close


MUCH = 10_000
"""More writes than any command makes."""


@dataclass(frozen=True)
class BranchEnd:
    """What became of a branch.

    Attributes:
        place: where it met its fault.
        how: one of the words above.
        said: the error, as text.
        key: of the machine that it left (`key_of`).
    """

    place: str
    how: str
    said: str
    key: str


@dataclass
class Branches:
    """The branches of a command on `host`: see `run` and `begins`."""

    host: SimulatedHost
    ends: list[BranchEnd] = field(default_factory=list)
    machines: dict[str, Snapshot] = field(default_factory=dict)
    """What they left behind, each distinct machine once."""
    within: bool = False
    """Whether this process is one of them."""
    _pipe: int = -1

    def begins(self, place: str) -> bool:
        """True in a new branch; False in the original, once the branch has come to its end and left no trace."""
        before = self.host.save()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            gc.disable()  # it would touch, and with that copy, all that the two share
            os.close = _unlocking(os.close)  # type: ignore[assignment]
            self.within, self._pipe = True, write
            return True
        os.close(write)
        with open(read, encoding="utf-8") as answer:  # noqa: PTH123  a descriptor
            how, _, said = answer.read().partition("\n")
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0 and how, f"the branch {place} did not come to its end"
        self._settle(BranchEnd(place, how, said, ""), before)
        return False

    def die(self) -> NoReturn:
        """This branch ends here without a word: no `finally`, no `except`, and what is in a buffer is lost."""
        os.write(self._pipe, f"{KILLED}\n".encode())
        os._exit(0)

    def _settle(self, end: BranchEnd, before: Snapshot) -> None:
        left = self.host.save()
        key = key_of(left)
        self.machines.setdefault(key, left)
        self.ends.append(BranchEnd(end.place, end.how, end.said, key))
        self.host.restore(before, now=left)

    def run(self, command: Callable[[], object], watched: AbstractContextManager[object]) -> None:
        """Run the command with what calls `begins` in place; the original has to come to its end."""
        use_huge_pages()
        how, said = FAULT, ""
        try:
            with watched:
                command()
            how = ENDED
        except HyperscalerError as error:
            how, said = TOLD, str(error)
            if not self.within:
                raise
        except BaseException as error:
            how, said = CUT if isinstance(error, PowerCut) else FAULT, repr(error)
            if not self.within:
                raise
        finally:
            if self.within:  # whatever happened: a copy of the tests must not go on
                try:
                    os.write(self._pipe, f"{how}\n{said[:2000]}".encode(errors="replace"))
                finally:
                    os._exit(0)


def fill_disk(host: SimulatedHost, command: Callable[[], object], *, stays_full: bool) -> tuple[Branches, int]:
    """Run a command, with a branch for each of its writes in which there is no space for that one (and none after it);
    returns them, and the number of writes. A branch begins at the stop point before its write."""
    start = host.save()
    counted = FullDisk(host.root, MUCH, stays_full=stays_full)
    written: list[int] = []
    with counted.installed(), hooked(host, *[lambda _name: written.append(counted.count)] * 2):
        command()
    written.append(counted.count)
    host.restore(start)

    branches = Branches(host)
    disk = FullDisk(host.root, MUCH, stays_full=stays_full)
    stretches = pairwise([0, *written])

    def step(name: str) -> None:
        if branches.within:
            return
        first, last = next(stretches)
        for number in range(1, last - first + 1):
            if branches.begins(f"write {first + number} of {counted.count}, after {name}"):
                disk.number = disk.count + number
                return

    def filling() -> None:
        step("its begin")
        try:
            command()
        finally:
            assert bool(disk.refused) == branches.within, "a branch did not come to its write"

    with disk.installed():
        branches.run(filling, hooked(host, step, step))
    return branches, counted.count


Faults = Callable[[int, str], Sequence[BaseException]]


def meet_faults(host: SimulatedHost, command: Callable[[], object], stops: Stops, faults: Faults) -> Branches:
    """Run a command, with a branch for each fault at each of its stop points.

    Args:
        stops: of the same command from the same machine (`find_stops`).
        faults: which exceptions a stop point, given by its number and name, is to raise. After a `PowerCut` nothing
            reaches the machine any more; `Killed` is not raised, it ends the process; after any other one the branch
            goes on without further faults.
    """
    branches = Branches(host)
    position, cut = 0, False

    def enter(name: str) -> None:
        step(f"before {name}")

    def leave(name: str) -> None:
        nonlocal position
        position += name == "journal.append"  # half a line cannot be had by an exception
        step(f"after {name}")

    def step(name: str) -> None:
        nonlocal position, cut
        if branches.within:
            if cut:
                raise PowerCut
            return
        number, position = position, position + 1
        assert name == stops.names[number], "the command does not take the same way twice"
        for fault in faults(number, name):
            if branches.begins(name):
                if isinstance(fault, Killed):
                    branches.die()
                cut = isinstance(fault, PowerCut)
                raise fault

    branches.run(command, hooked(host, enter, leave))
    assert key_of(host.save()) == stops.end, "the branches left traces"
    return branches
