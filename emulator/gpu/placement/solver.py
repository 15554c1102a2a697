"""Exact placement of slices and whole boards.

The best answer, in this order: (1) every demand is placed whenever that is possible at all; (2) fewest boards hold
demands; (3) least fragmentation: the sum over boards of the largest profile that can still be created is as large as
possible; (4) fewest demands leave the place they have now. Among equals the answer depends on the input alone: boards
fill up in their given order, demands of a kind take their slices in their given order.

`docs/design/0003-gpu-placement.md` explains the method.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from emulator.core.errors import HyperscalerError
from emulator.gpu.geometry import Geometry, geometry_of
from emulator.gpu.model import GpuInstance, Placement
from emulator.gpu.placement.demand import Assignment, BoardState, BoardUse, Demand, Solution
from emulator.gpu.placement.solver_bound import Choice
from emulator.gpu.placement.solver_patterns import (
    UNSERVED,
    WHOLE,
    Problem,
    Slot,
    Vector,
    best_layout,
    compile_problem,
    served_profile,
)
from emulator.gpu.placement.solver_search import FewestBoards, LeastCost

DEFAULT_BUDGET = 40_000
"""Steps that the search for levels 3 and 4 may take; well below a second on a slow core."""


def place(
    boards: Sequence[BoardState],
    demands: Sequence[Demand],
    *,
    current: Mapping[str, Assignment] | None = None,
    pinned: Collection[str] = (),
    budget: int = DEFAULT_BUDGET,
) -> Solution | None:
    """Place every demand, or prove by None that it cannot be done.

    `emulator.gpu.placement.explain.solve` adds the reasons.

    Args:
        boards: in order of preference; ids unique.
        demands: ids unique.
        current: where demands are now; those places are free to be given to others, unless pinned.
        pinned: ids of demands that must stay where `current` has them (their guest runs).
        budget: see `Solution.proved`.

    Raises:
        HyperscalerError: duplicate ids, or a pinned demand without a possible current place.
    """
    _check_unique([board.id for board in boards], "board")
    _check_unique([demand.id for demand in demands], "demand")
    held = _possible(boards, demands, current or {})
    for demand in demands:
        if demand.id in pinned and demand.id not in held:
            raise HyperscalerError(
                "the slice must stay where it is, but its board does not offer that place",
                where=demand.id,
                fix="release it first, or correct the board's allowed profiles",
            )
    kept = {name: where for name, where in held.items() if name not in pinned}
    fixed = {name: where for name, where in held.items() if name in pinned}
    found = _place(boards, demands, {}, fixed, budget)
    if found is None:
        return None
    best = _stable(boards, demands, kept, fixed, found, budget) if kept else found[0]
    now = {assignment.demand: assignment for assignment in best.assignments}
    moves = tuple(demand.id for demand in demands if current and current.get(demand.id) not in (None, now[demand.id]))
    return replace(best, moves=moves)


_Taken = tuple[tuple[int, Vector], ...]  # (board index, pattern) of each board that serves free demands


def _stable(
    boards: Sequence[BoardState],
    demands: Sequence[Demand],
    kept: Mapping[str, Assignment],
    fixed: Mapping[str, Assignment],
    found: tuple[Solution, _Taken],
    budget: int,
) -> Solution:
    """The solution as good as the one found that moves fewest demands."""
    best, taken = found
    if len(_compatible(boards, kept, fixed)) == len(kept):
        still = _place(boards, demands, {}, {**fixed, **kept}, budget, most=best.boards_touched)
        if still and (still[0].boards_touched, still[0].room) == (best.boards_touched, best.room):
            return replace(still[0], proved=best.proved)
    again = _place(boards, demands, kept, fixed, budget, known=taken)
    if again is None or again[0].room < best.room:
        return replace(best, proved=False)  # only a spent budget can end here
    return replace(again[0], proved=again[0].proved and best.proved)


def _place(
    boards: Sequence[BoardState],
    demands: Sequence[Demand],
    kept: Mapping[str, Assignment],
    fixed: Mapping[str, Assignment],
    budget: int,
    *,
    known: _Taken | None = None,
    most: int | None = None,
) -> tuple[Solution, _Taken] | None:
    """Levels 1 to 3, and level 4 when `kept` is given.

    `known` is a placement with fewest boards, if there is one already; `most` gives up above so many boards, and also
    when that many are not found soon.
    """
    states = _with_fixed(boards, fixed)
    free = [demand for demand in demands if demand.id not in fixed]
    touched = {assignment.board for assignment in fixed.values()}
    problem = compile_problem(states, free, kept, frozenset(n for n, board in enumerate(boards) if board.id in touched))
    proved = True
    if known is None:
        fewest = FewestBoards(problem)
        choices = fewest.solve(most=None if most is None else most - len(touched))
        proved = fewest.proved
    else:
        choices = _choices(problem, known)
    if choices is None:
        return None
    scale = len(kept) + 1
    costs = tuple(tuple(pattern.room * scale - pattern.kept for pattern in group.patterns) for group in problem.classes)
    search = LeastCost(problem, costs, choices, budget=budget)
    proved = search.solve() and proved
    taken = _on_boards(problem, search.best)
    assignments = {**fixed, **_assign(states, free, kept, problem, taken)}
    solution = Solution(
        assignments=tuple(assignments[demand.id] for demand in demands),
        boards_touched=len({assignment.board for assignment in assignments.values()}),
        room=_room_now(states) - sum(pattern.room for _, pattern in search.best),
        proved=proved,
    )
    return solution, taken


def _choices(problem: Problem, known: _Taken) -> list[Choice]:
    """What was taken, in terms of this problem's classes."""
    home = {number: c for c, group in enumerate(problem.classes) for number, _ in group.boards}
    return [
        (home[number], next(p for p in problem.classes[home[number]].patterns if p.vector == vector))
        for number, vector in known
    ]


def _on_boards(problem: Problem, choices: Sequence[Choice]) -> _Taken:
    """Boards of a class take its patterns in their order, the fullest first."""
    taken: list[tuple[int, Vector]] = []
    for c, group in enumerate(problem.classes):
        vectors = sorted((pattern.vector for number, pattern in choices if number == c), reverse=True)
        taken += [(board, vector) for (board, _), vector in zip(group.boards, vectors, strict=False)]
    return tuple(sorted(taken))


def _assign(
    boards: Sequence[BoardState],
    demands: Sequence[Demand],
    kept: Mapping[str, Assignment],
    problem: Problem,
    taken: _Taken,
) -> dict[str, Assignment]:
    """Give each demand its slot: whoever holds the slot now keeps it, the others follow in their order."""
    sites = {number: site for group in problem.classes for number, site in group.boards}
    slots: list[tuple[int, Slot]] = []
    for board, vector in taken:
        whole = [(t, 0) for t, i in enumerate(sites[board].served) if i == WHOLE and vector[t]]
        slots += [(board, slot) for slot in (*best_layout(sites[board], vector), *whole)]
    slots.sort(key=lambda item: (item[0], item[1][1]))
    result: dict[str, Assignment] = {}
    for t, members in enumerate(problem.types):
        waiting = {demands[member].id: demands[member] for member in members}
        open_slots = [_assignment(boards[board], waiting, slot[1]) for board, slot in slots if slot[0] == t]
        left = []
        for where in open_slots:
            holder = next((name for name in waiting if name not in result and _same(kept.get(name), where)), None)
            if holder is None:
                left.append(where)
            else:
                result[holder] = replace(where, demand=holder)
        others = [name for name in waiting if name not in result]
        result.update((name, replace(where, demand=name)) for name, where in zip(others, left, strict=True))
    return result


def _assignment(board: BoardState, waiting: Mapping[str, Demand], start: int) -> Assignment:
    sample = next(iter(waiting.values()))
    if sample.whole:
        return Assignment("", board.id)
    geometry = geometry_of(board.model)
    profile = geometry.profiles[served_profile(board, sample, empty=False)]
    return Assignment("", board.id, profile.name, Placement(start, profile.memory_slices or 0))


def _same(held: Assignment | None, where: Assignment) -> bool:
    return held is not None and replace(where, demand=held.demand) == held


def _possible(
    boards: Sequence[BoardState], demands: Sequence[Demand], current: Mapping[str, Assignment]
) -> dict[str, Assignment]:
    """The current places that their demand could also be given today."""
    by_id = {board.id: board for board in boards}
    result = {}
    for demand in demands:
        where = current.get(demand.id)
        board = by_id.get(where.board) if where else None
        if where is None or board is None:
            continue
        index = served_profile(board, demand, empty=not board.instances)
        if index == UNSERVED or where.whole != (index == WHOLE):
            continue
        if index == WHOLE or _fits(geometry_of(board.model), board, index, where):
            result[demand.id] = replace(where, demand=demand.id)
    return result


def _fits(geometry: Geometry, board: BoardState, index: int, where: Assignment) -> bool:
    profile, placement = geometry.profiles[index], where.placement
    return (
        placement is not None
        and where.profile == profile.name
        and placement in (profile.placements or ())
        and placement.start in geometry.free_starts(geometry.occupancy(board.instances), index)
    )


def _compatible(
    boards: Sequence[BoardState], kept: Mapping[str, Assignment], fixed: Mapping[str, Assignment]
) -> dict[str, Assignment]:
    """The kept places that can all stand together with the fixed ones, first come first served."""
    states = {board.id: board for board in _with_fixed(boards, fixed)}
    result: dict[str, Assignment] = {}
    for name, where in kept.items():
        board = states[where.board]
        if board.use is BoardUse.CLOSED or (where.whole and board.instances):
            continue
        index = geometry_of(board.model).index(where.profile or "")
        if where.whole or (index is not None and _fits(geometry_of(board.model), board, index, where)):
            result[name] = where
            states[where.board] = _with_fixed([board], {name: where})[0]
    return result


def _with_fixed(boards: Sequence[BoardState], fixed: Mapping[str, Assignment]) -> list[BoardState]:
    """The boards with the fixed assignments standing on them."""
    standing: dict[str, list[Assignment]] = {}
    for assignment in fixed.values():
        standing.setdefault(assignment.board, []).append(assignment)
    states = []
    for board in boards:
        extra = standing.get(board.id, [])
        slices = tuple(
            GpuInstance(item.profile, item.placement, owner=item.demand)
            for item in extra
            if item.profile and item.placement
        )
        use = BoardUse.CLOSED if len(slices) < len(extra) else board.use
        states.append(replace(board, instances=board.instances + slices, use=use))
    return states


def _room_now(boards: Sequence[BoardState]) -> int:
    total = 0
    for board in boards:
        if board.use in (BoardUse.ANY, BoardUse.SLICES) and board.model.mig_capable:
            geometry = geometry_of(board.model)
            allowed = [
                i for i, profile in enumerate(geometry.profiles) if not board.allowed or profile.name in board.allowed
            ]
            total += geometry.room(geometry.occupancy(board.instances), allowed)
    return total


def _check_unique(ids: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise HyperscalerError(f"two {what}s have the same id", where=name, fix=f"give each {what} its own id")
        seen.add(name)
