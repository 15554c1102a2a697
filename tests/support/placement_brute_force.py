"""Exhaustive placement, written apart from the solver: the yardstick of its tests. Slow and obvious."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from emulator.gpu.model import BoardModel, MigProfile, Placement
from emulator.gpu.placement.demand import Assignment, BoardState, BoardUse, Demand

Standing = tuple[tuple[str, Placement], ...]
Score = tuple[int, int, int]


def legal(model: BoardModel, standing: Standing) -> bool:
    """The rules of MIG, straight from the guide."""
    for (_, one), (_, other) in itertools.combinations(standing, 2):
        if set(range(one.start, one.end)) & set(range(other.start, other.end)):
            return False
    names = [name for name, _ in standing]
    if len(names) > model.max_gpu_instances:
        return False
    found = [profile for name in names if (profile := model.profile(name)) is not None]
    if sum(profile.compute_slices for profile in found) > model.compute_slices:
        return False
    if any(names.count(profile.name) > profile.max_instances for profile in found):
        return False
    return sum(profile.media_extensions for profile in found) <= 1


def creatable(board: BoardState, standing: Standing) -> int:
    """Size of the largest profile that still fits: 16 * memory slices + compute slices."""
    best = 0
    for profile in choices(board):
        for placement in profile.placements or ():
            if legal(board.model, (*standing, (profile.name, placement))):
                best = max(best, 16 * placement.size + profile.compute_slices)
    return best


def choices(board: BoardState) -> list[MigProfile]:
    if board.use in (BoardUse.WHOLE, BoardUse.CLOSED):
        return []
    return [profile for profile in board.model.profiles if not board.allowed or profile.name in board.allowed]


def wanted_profile(board: BoardState, demand: Demand) -> MigProfile | None:
    offered = {profile.name: profile for profile in choices(board)}
    if demand.profile is not None:
        return offered.get(demand.profile)
    smallest = board.model.smallest_profile(board.allowed)
    return offered.get(smallest.name) if smallest else None


def solutions(boards: Sequence[BoardState], demands: Sequence[Demand]) -> Iterator[tuple[Assignment, ...]]:
    """Every placement of all demands. Demands that ask the same are interchangeable only to the caller."""

    def extend(
        standing: dict[str, Standing], whole: frozenset[str], rest: Sequence[Demand], done: tuple[Assignment, ...]
    ):
        if not rest:
            yield done
            return
        demand = rest[0]
        for board in boards:
            if board.id in whole:
                continue
            if demand.whole:
                if board.use in (BoardUse.ANY, BoardUse.WHOLE) and not standing[board.id]:
                    yield from extend(standing, whole | {board.id}, rest[1:], (*done, Assignment(demand.id, board.id)))
                continue
            profile = wanted_profile(board, demand)
            for placement in (profile.placements or ()) if profile else ():
                after = (*standing[board.id], (profile.name, placement))
                if legal(board.model, after):
                    where = Assignment(demand.id, board.id, profile.name, placement)
                    yield from extend({**standing, board.id: after}, whole, rest[1:], (*done, where))

    start = {board.id: tuple((i.profile, i.placement) for i in board.instances) for board in boards}
    yield from extend(start, frozenset(), demands, ())


def score(boards: Sequence[BoardState], answer: Sequence[Assignment], current: Mapping[str, Assignment]) -> Score:
    """(boards touched, minus the room left, moves): smaller is better."""
    room = 0
    for board in boards:
        mine = [where for where in answer if where.board == board.id]
        if any(where.whole for where in mine):
            continue
        standing = tuple((i.profile, i.placement) for i in board.instances)
        room += creatable(board, standing + tuple((where.profile, where.placement) for where in mine))
    moves = sum(where.demand in current and current[where.demand] != where for where in answer)
    return len({where.board for where in answer}), -room, moves


def best_score(
    boards: Sequence[BoardState], demands: Sequence[Demand], current: Mapping[str, Assignment]
) -> Score | None:
    """The best score of all placements; None when there are none."""
    return min((score(boards, answer, current) for answer in solutions(boards, demands)), default=None)
