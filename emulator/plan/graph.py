"""Dependency order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from emulator.core.errors import StateError

T = TypeVar("T", bound=str)


def topological_order(needs: Mapping[str, Iterable[str]]) -> list[str]:
    """Ids in an order in which each follows everything it needs; ties keep the mapping's order.

    Needs that are not keys of the mapping count as fulfilled.

    Raises:
        StateError: the needs form a cycle.
    """
    order: list[str] = []
    marks: dict[str, int] = {}  # 1 = on the path, 2 = done
    for root in needs:
        stack: list[tuple[str, Iterable[str]]] = []
        if marks.get(root) != 2:
            marks[root] = 1
            stack.append((root, iter(tuple(needs[root]))))
        while stack:
            node, remaining = stack[-1]
            nxt = next(iter(remaining), None)
            if nxt is None:
                marks[node] = 2
                order.append(node)
                stack.pop()
            elif nxt in needs and marks.get(nxt) == 1:
                raise StateError(f"resources need each other in a circle: {node} and {nxt}")
            elif nxt in needs and marks.get(nxt) != 2:
                marks[nxt] = 1
                stack.append((nxt, iter(tuple(needs[nxt]))))
    return order


def dependents(needs: Mapping[str, Iterable[str]], roots: Iterable[str]) -> set[str]:
    """Ids that need one of `roots`, directly or through others, without the roots themselves."""
    reverse: dict[str, list[str]] = {}
    for node, wanted in needs.items():
        for want in wanted:
            reverse.setdefault(want, []).append(node)
    found: set[str] = set()
    queue = list(roots)
    while queue:
        for node in reverse.get(queue.pop(), ()):
            if node not in found:
                found.add(node)
                queue.append(node)
    return found
