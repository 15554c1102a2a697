"""Lower bounds for the search: prices of a relaxation, rounded to integers and valid for any rounding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from emulator.gpu.placement.solver_lp import Relation, relax
from emulator.gpu.placement.solver_patterns import GpuClass, Pattern, Problem, Vector

SCALE = 1 << 20  # prices are integers in units of 1/SCALE
_CLASS_ROWS = 8  # above so many classes the relaxation ignores which class a pattern belongs to

Choice = tuple[int, Pattern]  # class, pattern


@dataclass(slots=True)
class Bound:
    """Integer prices and what follows from them.

    `likely`: (vector, class or None, times) of the relaxation's own answer, rounded down. `floor[c]`: the least
    reduced cost of class c, at most 0.
    """

    costs: tuple[tuple[int, ...], ...]
    prices: Vector
    gpu_price: int
    classes: tuple[GpuClass, ...]
    likely: tuple[tuple[Vector, int | None, int], ...] = ()
    floor: list[int] = field(default_factory=list)
    reduced: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for costs, group in zip(self.costs, self.classes, strict=True):
            fixed = 0 if group.touched else self.gpu_price
            values = [
                SCALE * cost - fixed * any(pattern.vector) - _dot(self.prices, pattern.vector)
                for cost, pattern in zip(costs, group.patterns, strict=True)
            ]
            floor = min(0, *values)
            self.floor.append(floor)
            self.reduced.append([value - floor for value in values])

    def start(self, wanted: Vector, gpus: int) -> int:
        """Lower bound, times SCALE, of the whole problem when `gpus` untouched GPUs are opened."""
        floors = sum(len(group.gpus) * low for group, low in zip(self.classes, self.floor, strict=True))
        return _dot(self.prices, wanted) + self.gpu_price * gpus + floors

    def head_starts(self, wanted: Vector, sizes: Vector) -> Iterator[tuple[list[Choice], Vector, Vector]]:
        """(choices, still wanted, class sizes left): most of the relaxation's answer, leaving more and more open."""
        for open_gpus in range(3):
            choices: list[Choice] = []
            left, free = wanted, list(sizes)
            for vector, owner, times in self.likely:
                for _ in range(times - open_gpus):
                    c = self._owner(vector, owner, free)
                    if c is None or any(a > b for a, b in zip(vector, left, strict=True)):
                        break
                    free[c] -= 1
                    left = tuple(a - b for a, b in zip(left, vector, strict=True))
                    choices.append((c, next(p for p in self.classes[c].patterns if p.vector == vector)))
            if choices:
                yield choices, left, tuple(free)

    def _owner(self, vector: Vector, owner: int | None, free: Sequence[int]) -> int | None:
        candidates = range(len(free)) if owner is None else (owner,)
        return next(
            (c for c in candidates if free[c] and any(p.vector == vector for p in self.classes[c].patterns)), None
        )

    def reduced_of(self, choice: Choice) -> int:
        c, pattern = choice
        return self.reduced[c][self.classes[c].patterns.index(pattern)]


def _dot(left: Vector, right: Vector) -> int:
    return sum(a * b for a, b in zip(left, right, strict=True))


def ceil_scaled(value: int) -> int:
    return -(-value // SCALE)


def gpus_bound(problem: Problem) -> Bound:
    """Prices for the number of untouched GPUs that have to be opened."""
    costs = tuple(
        tuple(int(not group.touched and any(pattern.vector)) for pattern in group.patterns) for group in problem.classes
    )
    return _bound(problem, costs, gpus=None)


def cost_bound(problem: Problem, costs: tuple[tuple[int, ...], ...], gpus: int) -> Bound:
    """Prices for the sum of `costs` when exactly `gpus` untouched GPUs are opened."""
    return _bound(problem, costs, gpus=gpus)


def _bound(problem: Problem, costs: tuple[tuple[int, ...], ...], *, gpus: int | None) -> Bound:
    """The stronger of two relaxations: one counts the GPUs of each class, the other does not.

    The first is never weaker in theory. If the GPUs only just suffice, however, its prices are far from unique, and the
    found ones can be useless.
    """
    choice = [_relaxed(problem, costs, gpus=gpus, limited=limited) for limited in (True, False)]
    return max(choice, key=lambda bound: bound.start(problem.wanted, gpus or 0))


def _relaxed(problem: Problem, costs: tuple[tuple[int, ...], ...], *, gpus: int | None, limited: bool) -> Bound:
    by_class = limited and len(problem.classes) <= _CLASS_ROWS
    cheapest = _columns(problem, costs, by_class=by_class, maximal=gpus is None)
    sizes = [len(group.gpus) for group in problem.classes]
    rooms = (sizes if by_class else [sum(sizes)]) if limited else []
    columns = []
    for vector, opens, c in cheapest:
        opened = [] if gpus is None else [opens]
        columns.append([*vector, *(int(c == k) for k in range(len(rooms))), *opened])
    cover = Relation.AT_LEAST if gpus is None else Relation.EQUAL
    relations = [cover] * len(problem.wanted) + [Relation.AT_MOST] * len(rooms)
    limits: list[float] = [*problem.wanted, *rooms]
    if gpus is not None:
        relations.append(Relation.EQUAL)
        limits.append(gpus)
    prices, point = relax(columns, list(cheapest.values()), relations, limits)
    whole = [round(price * SCALE) for price in prices]
    likely = tuple(
        (vector, c if by_class else None, int(value + 1e-6))
        for (vector, _, c), value in zip(cheapest, point, strict=True)
        if value > 1 - 1e-6
    )
    types = len(problem.wanted)
    return Bound(costs, tuple(whole[:types]), 0 if gpus is None else whole[-1], problem.classes, likely)


def _columns(
    problem: Problem, costs: tuple[tuple[int, ...], ...], *, by_class: bool, maximal: bool
) -> dict[tuple[Vector, int, int], int]:
    """(vector, opens a GPU, class) -> least cost."""
    cheapest: dict[tuple[Vector, int, int], int] = {}
    for c, (group, own) in enumerate(zip(problem.classes, costs, strict=True)):
        vectors = {pattern.vector for pattern in group.patterns} if maximal else set()
        for pattern, cost in zip(group.patterns, own, strict=True):
            if any(pattern.vector) and not _extensible(pattern.vector, vectors):
                key = (pattern.vector, int(not group.touched), c if by_class else 0)
                cheapest[key] = min(cost, cheapest.get(key, cost))
    return cheapest


def _extensible(vector: Vector, vectors: set[Vector]) -> bool:
    return any((*vector[:t], vector[t] + 1, *vector[t + 1 :]) in vectors for t in range(len(vector)))
