"""Slices that a lab has in exchange, in the plan.

The planner places demands on the boards as they are, the lab's resources keep the places of its record: both are
told of one slice here, from one to the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from emulator.apply.handlers.gpu_carve import GpuHost
from emulator.apply.ledger import slice_of
from emulator.gpu.demand import Assignment, BoardState
from emulator.gpu.model import GpuInstance, Placement


@dataclass(frozen=True, slots=True)
class Exchange:
    """A slice of a board, by the device's id in the lab file: its start on the lab's record, and on the board."""

    board: str
    profile: str
    recorded: int
    start: int


def exchanges_of(host: GpuHost, lab: str, devices: Mapping[str, str]) -> tuple[Exchange, ...]:
    """The lab's, by the ledger. `devices`: ids by PCI address."""
    found = []
    for key in host.ledger.held(lab):
        place, recorded = slice_of(key), slice_of(host.ledger.claims()[key].instead_of)
        if place is not None and recorded is not None and place[0] in devices:
            found.append(Exchange(devices[place[0]], place[1], recorded[2], place[2]))
    return tuple(found)


def on_boards(exchanges: Sequence[Exchange], recorded: Mapping[str, Assignment]) -> dict[str, Assignment]:
    """Assignments by demand as they are on record, with the places where the slices lie."""
    return {demand: _moved(item, exchanges, back=False) for demand, item in recorded.items()}


def on_record(exchanges: Sequence[Exchange], placed: Sequence[Assignment]) -> tuple[Assignment, ...]:
    """Planned assignments, with the places that their slices have on record."""
    return tuple(_moved(item, exchanges, back=True) for item in placed)


def _moved(item: Assignment, exchanges: Sequence[Exchange], *, back: bool) -> Assignment:
    for exchange in exchanges:
        old, new = (exchange.start, exchange.recorded) if back else (exchange.recorded, exchange.start)
        there = item.placement
        if there is not None and (item.board, item.profile, there.start) == (exchange.board, exchange.profile, old):
            return dataclasses.replace(item, placement=Placement(new, there.size))
    return item


def kept_exchanges(
    exchanges: Sequence[Exchange], current: Mapping[str, Assignment], pinned: Collection[str]
) -> tuple[Exchange, ...]:
    """Those of slices that stay with their demand. `current` is as on the boards."""
    stay = {
        (item.board, item.profile, item.placement.start)
        for demand, item in current.items()
        if demand in pinned and item.placement is not None
    }
    return tuple(item for item in exchanges if (item.board, item.profile, item.start) in stay)


def around_exchanges(
    boards: Sequence[BoardState], exchanges: Sequence[Exchange], kept: Collection[Exchange]
) -> tuple[BoardState, ...]:
    """The boards, with nothing new planned where it would be taken for one of these slices: at the place on record of
    one that stays, or on one that goes."""
    return tuple(_around(board, exchanges, kept) for board in boards)


def _around(board: BoardState, exchanges: Sequence[Exchange], kept: Collection[Exchange]) -> BoardState:
    sizes = {profile.name: profile.memory_slices or 1 for profile in board.model.profiles}
    there = list(board.instances)
    for item in exchanges:
        if item.board == board.id:
            place = Placement(item.recorded if item in kept else item.start, sizes.get(item.profile, 1))
            if not any(place.overlaps(other.placement) for other in there):
                there.append(GpuInstance(item.profile, place))
    return dataclasses.replace(board, instances=tuple(there))
