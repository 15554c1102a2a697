"""Exact search over patterns: fewest GPUs, then least room lost and most demands kept in place.

Both searches are depth-first: take the largest type that is still wanted, choose the class and the pattern of the GPU
that holds one of it, recurse on what is left. Dual prices of the linear relaxation turn into a lower bound that each
pattern raises by its (non-negative, integer) reduced cost; a branch ends as soon as the bound passes the target.
States met before are not searched again.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from emulator.gpu.placement.solver_bound import SCALE, Bound, Choice, ceil_scaled, cost_bound, gpus_bound
from emulator.gpu.placement.solver_patterns import Pattern, Problem, Vector

EFFORT = 30_000
"""Steps to spend on a number of GPUs below the total before it counts as not enough."""

_Move = tuple[int, int, int, Pattern]  # reduced cost, cost, class, pattern


class BudgetSpent(Exception):  # noqa: N818 (not an error: the search answers with the best it has)
    """The search has used up its number of states."""


class FewestGpus:
    """Finds the least number of untouched GPUs that serve all demands, and one way to do it."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self.bound = gpus_bound(problem)
        self._vectors = [{pattern.vector for pattern in group.patterns} for group in problem.classes]
        self._moves: dict[tuple[Vector, tuple[bool, ...]], list[_Move]] = {}
        self._failed: set[tuple[Vector, Vector]] = set()
        self._allowance = 0
        self.proved = True
        self._caps = tuple(
            max((pattern.vector[t] for group in problem.classes for pattern in group.patterns), default=0)
            for t in range(len(problem.wanted))
        )

    def solve(self, *, most: int | None = None) -> list[Choice] | None:
        """Choices of patterns, one per used GPU; None when the demands do not fit.

        With `most`, None also means that no way with at most so many GPUs was found within `EFFORT`.
        """
        sizes = tuple(len(group.gpus) for group in self._problem.classes)
        fresh = sum(len(group.gpus) for group in self._problem.classes if not group.touched)
        start = self.bound.start(self._problem.wanted, 0)
        last = fresh if most is None else min(most, fresh)
        effort = EFFORT
        for gpus in range(max(0, ceil_scaled(start)), last + 1):
            found = self._from_head_start(sizes, start, gpus * SCALE)
            if found is None:
                self._failed.clear()
                # Whether the demands fit at all is decided without a limit; fewer GPUs are searched for within limits.
                final = most is None and gpus == fresh
                self._allowance = sys.maxsize if final else effort
                try:
                    found = self._search(self._problem.wanted, sizes, start, gpus * SCALE)
                except BudgetSpent:
                    self.proved = False
                effort = min(effort, self._allowance)
            if found is not None:
                return found
        return None

    def _from_head_start(self, sizes: Vector, start: int, target: int) -> list[Choice] | None:
        for choices, left, free in self.bound.head_starts(self._problem.wanted, sizes):
            self._failed.clear()
            self._allowance = 500
            bound = start + sum(map(self.bound.reduced_of, choices))
            try:
                found = self._search(left, free, bound, target)
            except BudgetSpent:
                continue
            if found is not None:
                return found + choices
        return None

    def _search(self, left: Vector, sizes: Vector, bound: int, target: int) -> list[Choice] | None:
        if not any(left):
            return []
        key = (left, sizes)
        if key in self._failed:
            return None
        self._allowance -= 1
        if self._allowance < 0:
            raise BudgetSpent
        for reduced, _, c, pattern in self._children(left, sizes):
            if bound + reduced > target:
                break
            rest = tuple(a - b for a, b in zip(left, pattern.vector, strict=True))
            found = self._search(rest, (*sizes[:c], sizes[c] - 1, *sizes[c + 1 :]), bound + reduced, target)
            if found is not None:
                found.append((c, pattern))
                return found
        self._failed.add(key)
        return None

    def _children(self, left: Vector, sizes: Vector) -> list[_Move]:
        """Only patterns that cannot take more of the remaining demands: filling up a GPU never costs another one."""
        clipped = tuple(map(min, left, self._caps))
        key = (clipped, tuple(size > 0 for size in sizes))
        moves = self._moves.get(key)
        if moves is None:
            moves = self._moves[key] = _moves(self.bound, clipped, key[1], self._vectors)
            self._allowance -= len(moves)
        return moves


def _moves(bound: Bound, left: Vector, usable: Sequence[bool], maximal_in: Sequence[set[Vector]] | None) -> list[_Move]:
    """Patterns that serve the first wanted type within `left`, cheapest reduced cost first."""
    first = next(t for t, number in enumerate(left) if number)
    moves: list[_Move] = []
    for c, group in enumerate(bound.classes):
        if not usable[c]:
            continue
        fitting = [
            (reduced, cost, c, pattern)
            for reduced, cost, pattern in zip(bound.reduced[c], bound.costs[c], group.patterns, strict=True)
            if pattern.vector[first] and all(map(int.__le__, pattern.vector, left))
        ]
        if maximal_in is not None:
            fitting = [move for move in fitting if not _can_grow(move[3].vector, left, maximal_in[c])]
        moves += fitting
    moves.sort(key=lambda move: (move[0], move[2], [-number for number in move[3].vector]))
    return moves


def _can_grow(vector: Vector, left: Vector, vectors: set[Vector]) -> bool:
    return any(
        vector[t] < left[t] and (*vector[:t], vector[t] + 1, *vector[t + 1 :]) in vectors for t in range(len(vector))
    )


class LeastCost:
    """Finds the cheapest choices that open exactly `gpus` untouched GPUs, starting from known choices."""

    def __init__(
        self, problem: Problem, costs: tuple[tuple[int, ...], ...], known: list[Choice], *, budget: int
    ) -> None:
        self._problem = problem
        self._cost_of = [
            {pattern.vector: cost for pattern, cost in zip(group.patterns, prices, strict=True)}
            for group, prices in zip(problem.classes, costs, strict=True)
        ]
        self.best = known
        self.best_cost = sum(self._cost_of[c][pattern.vector] for c, pattern in known)
        self._gpus = sum(not problem.classes[c].touched for c, _ in known)
        self._bound = cost_bound(problem, costs, self._gpus)
        self._opening = gpus_bound(problem)
        self._budget = budget
        self._seen: dict[tuple[Vector, Vector], int] = {}
        self._moves: dict[tuple[Vector, tuple[bool, ...]], list[_Move]] = {}
        self._opening_cost = [
            {pattern.vector: reduced for pattern, reduced in zip(group.patterns, values, strict=True)}
            for group, values in zip(problem.classes, self._opening.reduced, strict=True)
        ]
        self._path: list[Choice] = []
        self._target = 0

    def solve(self) -> bool:
        """Improve `best` to the optimum; False when the budget ended before the proof."""
        wanted = self._problem.wanted
        sizes = tuple(len(group.gpus) for group in self._problem.classes)
        start, opening = self._bound.start(wanted, self._gpus), self._opening.start(wanted, 0)
        # Aim at the bound first and widen: the search then stays near the usual optimum.
        try:
            self._seed(sizes, start, opening)
            target, step = min(ceil_scaled(start), self.best_cost - 1), 1
            while ceil_scaled(start) < self.best_cost:
                self._seen.clear()
                self._target = target
                self._search(wanted, sizes, start, opening, 0)
                if target >= self.best_cost - 1:
                    break
                target, step = min(target + step, self.best_cost - 1), 2 * step
        except BudgetSpent:
            return False
        return True

    def _seed(self, sizes: Vector, start: int, opening: int) -> None:
        """Complete the relaxation's answer to a good first solution before the actual search."""
        spare = self._budget
        for choices, left, free in self._bound.head_starts(self._problem.wanted, sizes):
            if ceil_scaled(start) >= self.best_cost:
                break
            self._seen.clear()
            self._path, self._budget, self._target = list(choices), 500, self.best_cost - 1
            bound = start + sum(map(self._bound.reduced_of, choices))
            opened = opening + sum(self._opening_cost[c][pattern.vector] for c, pattern in choices)
            cost = sum(self._cost_of[c][pattern.vector] for c, pattern in choices)
            with contextlib.suppress(BudgetSpent):
                self._search(left, free, bound, opened, cost)
        self._path, self._budget = [], spare

    def _search(self, left: Vector, sizes: Vector, bound: int, opening: int, cost: int) -> None:
        if not any(left):
            if cost < self.best_cost:
                self.best, self.best_cost = list(self._path), cost
                self._target = min(self._target, cost - 1)
            return
        key = (left, sizes)
        if self._seen.get(key, cost + 1) <= cost:
            return
        self._seen[key] = cost
        self._budget -= 1
        if self._budget < 0:
            raise BudgetSpent
        for reduced, own, c, pattern in self._children(left, sizes):
            if ceil_scaled(bound + reduced) > self._target:
                break
            opened = opening + self._opening_cost[c][pattern.vector]
            if opened > self._gpus * SCALE:
                continue
            rest = tuple(a - b for a, b in zip(left, pattern.vector, strict=True))
            self._path.append((c, pattern))
            self._search(rest, (*sizes[:c], sizes[c] - 1, *sizes[c + 1 :]), bound + reduced, opened, cost + own)
            self._path.pop()

    def _children(self, left: Vector, sizes: Vector) -> list[_Move]:
        key = (left, tuple(size > 0 for size in sizes))
        moves = self._moves.get(key)
        if moves is None:
            moves = self._moves[key] = _moves(self._bound, left, key[1], None)
            self._budget -= len(moves) // 8
        return moves
