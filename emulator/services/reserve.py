"""Which guests are paused when the disk gets full, and when they go on: a pure function of what is seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """What is remembered between two looks: what guests' disks took, and which guests were paused for room."""

    allocated: Mapping[str, int] = field(default_factory=dict)
    paused: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Decision:
    """`pause` and `resume` are names of domains; `memory` is for the next look."""

    pause: tuple[str, ...]
    resume: tuple[str, ...]
    memory: Memory


def decide(free: int, reserve: int, guests: Mapping[str, GuestSeen], memory: Memory) -> Decision:
    """What is to be done at this much free space.

    Below the reserve a guest is paused as soon as its disk grows; one that writes where it has written before goes on.
    Guests that another person paused are left alone.

    Args:
        free: bytes that ordinary accounts may still take.
        reserve: bytes that are to stay free.
        guests: the lab's, by the name of the domain.
        memory: of the last look.
    """
    held = frozenset(name for name in memory.paused if name in guests and guests[name].held)
    allocated = {name: guest.allocated for name, guest in guests.items()}
    if free >= reserve + min(MARGIN, reserve // 8):
        return Decision((), tuple(sorted(held)), Memory(allocated, held))
    if free >= reserve:
        return Decision((), (), Memory(allocated, held))
    growing = tuple(
        sorted(
            name
            for name, guest in guests.items()
            if guest.running and guest.allocated > memory.allocated.get(name, guest.allocated)
        )
    )
    return Decision(growing, (), Memory(allocated, held | set(growing)))
