"""A small linear program solver: dual prices and a primal point.

The search needs prices only as a guide: it turns them into bounds with integer arithmetic (weak duality holds for any
prices), so neither rounding nor an early stop here can make an answer wrong, only the search longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

_BIG = 1e5
_EPSILON = 1e-9


class Relation(StrEnum):
    AT_LEAST = ">="
    EQUAL = "="
    AT_MOST = "<="


def relax(
    columns: Sequence[Sequence[float]],
    costs: Sequence[float],
    relations: Sequence[Relation],
    limits: Sequence[float],
) -> tuple[list[float], list[float]]:
    """Solve: minimise costs·x where each row of `columns`·x relates to its limit, x >= 0.

    Args:
        columns: one dense coefficient vector per variable, as long as `limits`.
        limits: right-hand sides, none negative.

    Returns:
        (prices, point): one price per row, one value per variable. Where the program has no solution, some prices
        are about as large as the internal penalty.
    """
    height, width = len(limits), len(columns)
    surplus = [row for row, relation in enumerate(relations) if relation is Relation.AT_LEAST]
    first = width + len(surplus)  # the starting basis: slack or penalised artificial variables
    penalty = [0.0 if relation is Relation.AT_MOST else _BIG for relation in relations]
    table = []
    for row in range(height):
        line = [float(column[row]) for column in columns]
        line += [-1.0 if row == own else 0.0 for own in surplus]
        line += [1.0 if row == other else 0.0 for other in range(height)]
        table.append([*line, float(limits[row])])
    reduced = [*map(float, costs), *(0.0 for _ in surplus), *penalty, 0.0]
    for row in range(height):
        if penalty[row]:
            reduced = [value - penalty[row] * entry for value, entry in zip(reduced, table[row], strict=True)]
    basis = [-1] * height
    for _ in range(40 * (height + 2)):
        if not _pivot(table, reduced, basis, entering=first):
            break
    point = [0.0] * width
    for row, column in enumerate(basis):
        if 0 <= column < width:
            point[column] = table[row][-1]
    return [penalty[row] - reduced[first + row] for row in range(height)], point


def _pivot(table: list[list[float]], reduced: list[float], basis: list[int], *, entering: int) -> bool:
    """One simplex step among the first `entering` variables; False at the optimum."""
    column = min(range(entering), key=reduced.__getitem__, default=-1)
    if column < 0 or reduced[column] > -1e-7:
        return False
    ratios = [(line[-1] / line[column], row) for row, line in enumerate(table) if line[column] > _EPSILON]
    if not ratios:
        return False
    pivot_row = min(ratios)[1]
    scale = table[pivot_row][column]
    pivot_line = [value / scale for value in table[pivot_row]]
    table[pivot_row] = pivot_line
    basis[pivot_row] = column
    for row, line in enumerate(table):
        factor = line[column]
        if row != pivot_row and factor:
            table[row] = [value - factor * entry for value, entry in zip(line, pivot_line, strict=True)]
    factor = reduced[column]
    reduced[:] = [value - factor * entry for value, entry in zip(reduced, pivot_line, strict=True)]
    return True
