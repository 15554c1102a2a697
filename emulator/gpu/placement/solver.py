"""Exact placement of slices and whole GPUs.

The best answer, in this order: (1) every demand is placed whenever that is possible at all; (2) fewest GPUs hold
demands; (3) least fragmentation: the sum over GPUs of the largest profile that can still be created is as large as
possible; (4) fewest demands leave the place they have now. Among equals the answer depends on the input alone: GPUs
fill up in their given order, demands of a kind take their slices in their given order.

`docs/design/0003-gpu-placement.md` explains the method.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from emulator.core.errors import HyperscalerError
from emulator.gpu.geometry import Geometry, geometry_of
from emulator.gpu.model import GpuInstance, Placement
from emulator.gpu.placement.demand import Assignment, Demand, GpuState, GpuUse, Solution
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
from emulator.gpu.placement.solver_search import FewestGpus, LeastCost

DEFAULT_BUDGET = 40_000
"""Steps that the search for levels 3 and 4 may take; well below a second on a slow core."""


def place(
    gpus: Sequence[GpuState],
    demands: Sequence[Demand],
    *,
    current: Mapping[str, Assignment] | None = None,
    pinned: Collection[str] = (),
    budget: int = DEFAULT_BUDGET,
) -> Solution | None:
    """Place every demand, or prove by None that it cannot be done.

    `emulator.gpu.placement.explain.solve` adds the reasons.

    Args:
        gpus: in order of preference; ids unique.
        demands: ids unique.
        current: where demands are now; these places may be given to other demands, unless pinned.
        pinned: ids of demands that must stay at their place in `current` (their guest runs).
        budget: see `Solution.proved`.

    Raises:
        HyperscalerError: duplicate ids, or a pinned demand without a possible current place.
    """
    _check_unique([gpu.id for gpu in gpus], "GPU")
    _check_unique([demand.id for demand in demands], "demand")
    held = _possible(gpus, demands, current or {})
    for demand in demands:
        if demand.id in pinned and demand.id not in held:
            raise HyperscalerError(
                "the slice must stay in place, but its GPU does not offer that placement",
                where=demand.id,
                fix="release it first, or correct the GPU's allowed profiles",
            )
    kept = {name: where for name, where in held.items() if name not in pinned}
    fixed = {name: where for name, where in held.items() if name in pinned}
    found = _place(gpus, demands, {}, fixed, budget)
    if found is None:
        return None
    best = _stable(gpus, demands, kept, fixed, found, budget) if kept else found[0]
    now = {assignment.demand: assignment for assignment in best.assignments}
    moves = tuple(demand.id for demand in demands if current and current.get(demand.id) not in (None, now[demand.id]))
    return replace(best, moves=moves)


_Taken = tuple[tuple[int, Vector], ...]  # (GPU index, pattern) of each GPU that serves free demands


def _stable(
    gpus: Sequence[GpuState],
    demands: Sequence[Demand],
    kept: Mapping[str, Assignment],
    fixed: Mapping[str, Assignment],
    found: tuple[Solution, _Taken],
    budget: int,
) -> Solution:
    """Among the solutions as good as the found one, the one that moves fewest demands."""
    best, taken = found
    if len(_compatible(gpus, kept, fixed)) == len(kept):
        still = _place(gpus, demands, {}, {**fixed, **kept}, budget, most=best.gpus_touched)
        if still and (still[0].gpus_touched, still[0].room) == (best.gpus_touched, best.room):
            return replace(still[0], proved=best.proved)
    again = _place(gpus, demands, kept, fixed, budget, known=taken)
    if again is None or again[0].room < best.room:
        return replace(best, proved=False)  # only an exhausted budget leads here
    return replace(again[0], proved=again[0].proved and best.proved)


def _place(
    gpus: Sequence[GpuState],
    demands: Sequence[Demand],
    kept: Mapping[str, Assignment],
    fixed: Mapping[str, Assignment],
    budget: int,
    *,
    known: _Taken | None = None,
    most: int | None = None,
) -> tuple[Solution, _Taken] | None:
    """Levels 1 to 3, and level 4 when `kept` is given.

    `known` is a placement with fewest GPUs, if one is known already. With `most` the search gives up above so many
    GPUs, or if it does not soon find a placement on that many.
    """
    states = _with_fixed(gpus, fixed)
    free = [demand for demand in demands if demand.id not in fixed]
    touched = {assignment.gpu for assignment in fixed.values()}
    problem = compile_problem(states, free, kept, frozenset(n for n, gpu in enumerate(gpus) if gpu.id in touched))
    proved = True
    if known is None:
        fewest = FewestGpus(problem)
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
    taken = _on_gpus(problem, search.best)
    assignments = {**fixed, **_assign(states, free, kept, problem, taken)}
    solution = Solution(
        assignments=tuple(assignments[demand.id] for demand in demands),
        gpus_touched=len({assignment.gpu for assignment in assignments.values()}),
        room=_room_now(states) - sum(pattern.room for _, pattern in search.best),
        proved=proved,
    )
    return solution, taken


def _choices(problem: Problem, known: _Taken) -> list[Choice]:
    """The taken patterns in terms of this problem's classes."""
    home = {number: c for c, group in enumerate(problem.classes) for number, _ in group.gpus}
    return [
        (home[number], next(p for p in problem.classes[home[number]].patterns if p.vector == vector))
        for number, vector in known
    ]


def _on_gpus(problem: Problem, choices: Sequence[Choice]) -> _Taken:
    """Give the GPUs of a class its patterns in order, the fullest first."""
    taken: list[tuple[int, Vector]] = []
    for c, group in enumerate(problem.classes):
        vectors = sorted((pattern.vector for number, pattern in choices if number == c), reverse=True)
        taken += [(gpu, vector) for (gpu, _), vector in zip(group.gpus, vectors, strict=False)]
    return tuple(sorted(taken))


def _assign(
    gpus: Sequence[GpuState],
    demands: Sequence[Demand],
    kept: Mapping[str, Assignment],
    problem: Problem,
    taken: _Taken,
) -> dict[str, Assignment]:
    """Give each demand its slot: the present holder keeps it, the other demands follow in their order."""
    sites = {number: site for group in problem.classes for number, site in group.gpus}
    slots: list[tuple[int, Slot]] = []
    for gpu, vector in taken:
        whole = [(t, 0) for t, i in enumerate(sites[gpu].served) if i == WHOLE and vector[t]]
        slots += [(gpu, slot) for slot in (*best_layout(sites[gpu], vector), *whole)]
    slots.sort(key=lambda item: (item[0], item[1][1]))
    result: dict[str, Assignment] = {}
    for t, members in enumerate(problem.types):
        waiting = {demands[member].id: demands[member] for member in members}
        open_slots = [_assignment(gpus[gpu], waiting, slot[1]) for gpu, slot in slots if slot[0] == t]
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


def _assignment(gpu: GpuState, waiting: Mapping[str, Demand], start: int) -> Assignment:
    sample = next(iter(waiting.values()))
    if sample.whole:
        return Assignment("", gpu.id)
    geometry = geometry_of(gpu.model)
    profile = geometry.profiles[served_profile(gpu, sample, empty=False)]
    return Assignment("", gpu.id, profile.name, Placement(start, profile.memory_slices or 0))


def _same(held: Assignment | None, where: Assignment) -> bool:
    return held is not None and replace(where, demand=held.demand) == held


def _possible(
    gpus: Sequence[GpuState], demands: Sequence[Demand], current: Mapping[str, Assignment]
) -> dict[str, Assignment]:
    """The current places that their demands could still be given."""
    by_id = {gpu.id: gpu for gpu in gpus}
    result = {}
    for demand in demands:
        where = current.get(demand.id)
        gpu = by_id.get(where.gpu) if where else None
        if where is None or gpu is None:
            continue
        index = served_profile(gpu, demand, empty=not gpu.instances)
        if index == UNSERVED or where.whole != (index == WHOLE):
            continue
        if index == WHOLE or _fits(geometry_of(gpu.model), gpu, index, where):
            result[demand.id] = replace(where, demand=demand.id)
    return result


def _fits(geometry: Geometry, gpu: GpuState, index: int, where: Assignment) -> bool:
    profile, placement = geometry.profiles[index], where.placement
    return (
        placement is not None
        and where.profile == profile.name
        and placement in (profile.placements or ())
        and placement.start in geometry.free_starts(geometry.occupancy(gpu.instances), index)
    )


def _compatible(
    gpus: Sequence[GpuState], kept: Mapping[str, Assignment], fixed: Mapping[str, Assignment]
) -> dict[str, Assignment]:
    """The kept places that can exist together with the fixed ones, first come, first served."""
    states = {gpu.id: gpu for gpu in _with_fixed(gpus, fixed)}
    result: dict[str, Assignment] = {}
    for name, where in kept.items():
        gpu = states[where.gpu]
        if gpu.use is GpuUse.CLOSED or (where.whole and gpu.instances):
            continue
        index = geometry_of(gpu.model).index(where.profile or "")
        if where.whole or (index is not None and _fits(geometry_of(gpu.model), gpu, index, where)):
            result[name] = where
            states[where.gpu] = _with_fixed([gpu], {name: where})[0]
    return result


def _with_fixed(gpus: Sequence[GpuState], fixed: Mapping[str, Assignment]) -> list[GpuState]:
    """The GPUs with the fixed assignments as instances."""
    standing: dict[str, list[Assignment]] = {}
    for assignment in fixed.values():
        standing.setdefault(assignment.gpu, []).append(assignment)
    states = []
    for gpu in gpus:
        extra = standing.get(gpu.id, [])
        slices = tuple(
            GpuInstance(item.profile, item.placement, owner=item.demand)
            for item in extra
            if item.profile and item.placement
        )
        use = GpuUse.CLOSED if len(slices) < len(extra) else gpu.use
        states.append(replace(gpu, instances=gpu.instances + slices, use=use))
    return states


def _room_now(gpus: Sequence[GpuState]) -> int:
    total = 0
    for gpu in gpus:
        if gpu.use in (GpuUse.ANY, GpuUse.SLICES) and gpu.model.mig_capable:
            geometry = geometry_of(gpu.model)
            allowed = [
                i for i, profile in enumerate(geometry.profiles) if not gpu.allowed or profile.name in gpu.allowed
            ]
            total += geometry.room(geometry.occupancy(gpu.instances), allowed)
    return total


def _check_unique(ids: Sequence[str], what: str) -> None:
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise HyperscalerError(f"two {what}s have the same id", where=name, fix=f"give each {what} its own id")
        seen.add(name)
