"""Which guests are paused when the disk gets full, and when they go on: a pure function of what is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from emulator.core.units import MIB

MARGIN = 256 * MIB
"""Bytes beyond the reserve that must be free before paused guests go on, so that they are not paused again at once; for
small reserves an eighth of the reserve."""


@dataclass(frozen=True, slots=True)
class GuestSeen:
    """A guest of the lab.

    Attributes:
        running, paused: as libvirt has it.
        allocated: bytes that its files take on the host.
        uid: of the user that is its QEMU's alone; None if there is none.
        stopped: its QEMU was stopped by a signal, of which libvirt knows nothing.
    """

    running: bool
    paused: bool
    allocated: int
    uid: int | None = None
    stopped: bool = False

    @property
    def held(self) -> bool:
        """Whether it stands still."""
        return self.paused or self.stopped


@dataclass(frozen=True, slots=True)
class Memory:
    """What is remembered between two looks.

    Attributes:
        allocated: what guests' files took.
        paused: guests that were paused or stopped for room.
        at_rest: guests that libvirt did not have running.
        others: those of the `paused` whom libvirt had at rest before, by another person's wish or by QEMU's word: they
            were stopped by a signal, and are not resumed through libvirt.
    """

    allocated: Mapping[str, int] = field(default_factory=dict)
    paused: frozenset[str] = frozenset()
    at_rest: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Decision:
    """`pause`, `resume` and `stop` are names of domains; `memory` is for the next look. To be stopped by a signal are
    those that grow although they are at rest by libvirt's account, which is QEMU's."""

    pause: tuple[str, ...]
    resume: tuple[str, ...]
    memory: Memory
    stop: tuple[str, ...] = ()


def decide(free: int, reserve: int, guests: Mapping[str, GuestSeen], memory: Memory) -> Decision:
    """What is to be done at this much free space.

    Below the reserve a guest is paused as soon as its disk grows; one that writes where it has written before goes on.
    Guests that another person paused are left alone. One that is said to be at rest, and grows from one look at which
    it was so to the next, is not: writes that were under way when it was paused have ended by then.

    Args:
        free: bytes that ordinary accounts may still take.
        reserve: bytes that are to stay free.
        guests: the lab's, by the name of the domain.
        memory: of the last look.
    """
    held = frozenset(name for name in memory.paused if name in guests and guests[name].held)
    after = Memory(
        {name: guest.allocated for name, guest in guests.items()},
        held,
        frozenset(name for name, guest in guests.items() if not guest.running),
        memory.others & held,
    )
    if free >= reserve + min(MARGIN, reserve // 8):
        return Decision((), tuple(sorted(held)), after)
    if free >= reserve:
        return Decision((), (), after)
    growing = {name for name, guest in guests.items() if guest.allocated > memory.allocated.get(name, guest.allocated)}
    pause, stop = growing - after.at_rest, growing & after.at_rest & memory.at_rest
    after = replace(after, paused=held | pause | stop, others=after.others | (stop - held))
    return Decision(tuple(sorted(pause)), (), after, tuple(sorted(stop)))
