"""The patterns that one GPU can take, and the grouping of interchangeable demands and GPUs.

A *type* is a set of demands that every GPU serves with the same profile. A *pattern* is a vector: how many demands
of each type a GPU takes. A *class* is a set of GPUs with equal tables. All three shrink the search without
losing a solution: 56 demands on 8 GPUs become about 6 types, 127 patterns and one class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from emulator.gpu.geometry import Geometry, Occupancy, geometry_of
from emulator.gpu.placement.demand import Assignment, Demand, GpuState, GpuUse

Vector = tuple[int, ...]
Slot = tuple[int, int]  # type, start
UNSERVED = -1
WHOLE = -2


@dataclass(frozen=True, slots=True)
class Pattern:
    """A vector and its cost for the GPU: `room` is the loss of `Geometry.room`, `kept` the largest number of demands
    that stay in their current place."""

    vector: Vector
    room: int
    kept: int


@dataclass(frozen=True, slots=True)
class Site:
    """The properties that determine a GPU's patterns. `served[t]`: profile index for type t; `kept`: slots held now."""

    geometry: Geometry
    occupancy: Occupancy
    allowed: tuple[int, ...]
    served: tuple[int, ...]
    kept: frozenset[Slot]


@dataclass(frozen=True, slots=True)
class GpuClass:
    """GPUs (index and site) with equal tables of patterns, possibly from mirrored layouts.

    `touched`: they hold demands already, so that further demands on them cost no additional GPU.
    """

    gpus: tuple[tuple[int, Site], ...]
    touched: bool
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """The compiled question. `types[t]` holds the demand indices of type t; `weights[t]` its largest size."""

    types: tuple[tuple[int, ...], ...]
    wanted: Vector
    weights: tuple[int, ...]
    classes: tuple[GpuClass, ...]


def served_profile(gpu: GpuState, demand: Demand, *, empty: bool) -> int:
    """Index of the profile with which the GPU serves the demand, WHOLE, or UNSERVED."""
    if demand.whole:
        return WHOLE if empty and gpu.use in (GpuUse.ANY, GpuUse.WHOLE) else UNSERVED
    if gpu.use not in (GpuUse.ANY, GpuUse.SLICES) or not gpu.model.mig_capable:
        return UNSERVED
    name = demand.profile
    if name is None:
        smallest = gpu.model.smallest_profile(gpu.allowed)
        name = smallest.name if smallest else ""
    if gpu.allowed and name not in gpu.allowed:
        return UNSERVED
    index = geometry_of(gpu.model).index(name)
    return UNSERVED if index is None else index


def compile_problem(
    gpus: Sequence[GpuState],
    demands: Sequence[Demand],
    current: Mapping[str, Assignment],
    touched: frozenset[int],
) -> Problem:
    """Group demands and GPUs. `current` counts as a wish to stay; `touched` GPUs hold pinned demands."""
    by_kind: dict[tuple[str | None, bool], list[int]] = {}
    for number, demand in enumerate(demands):
        by_kind.setdefault((demand.profile, demand.whole), []).append(number)
    empty = [not gpu.instances for gpu in gpus]
    by_signature: dict[tuple[int, ...], list[int]] = {}
    for members in by_kind.values():
        sample = demands[members[0]]
        signature = tuple(served_profile(gpu, sample, empty=clear) for gpu, clear in zip(gpus, empty, strict=True))
        by_signature.setdefault(signature, []).extend(members)
    # Largest first: the search branches on the first remaining type, and large slices have the fewest choices.
    weight = {signature: _largest(gpus, signature) for signature in by_signature}
    order = sorted(by_signature, key=lambda signature: (-weight[signature], min(by_signature[signature])))
    types = tuple(tuple(sorted(by_signature[signature])) for signature in order)
    wanted = tuple(map(len, types))
    kept = _kept_slots(gpus, demands, current, types)
    groups: dict[tuple[bool, tuple[Pattern, ...]], list[tuple[int, Site]]] = {}
    for number, gpu in enumerate(gpus):
        geometry = geometry_of(gpu.model)
        served = tuple(signature[number] for signature in order)
        site = Site(geometry, geometry.occupancy(gpu.instances), _allowed(gpu), served, kept[number])
        patterns = patterns_of(site, wanted)
        if len(patterns) > 1:
            groups.setdefault((number in touched, patterns), []).append((number, site))
    classes = [GpuClass(tuple(members), *key) for key, members in groups.items()]
    return Problem(types, wanted, tuple(weight[signature] for signature in order), tuple(classes))


def _allowed(gpu: GpuState) -> tuple[int, ...]:
    if gpu.use in (GpuUse.WHOLE, GpuUse.CLOSED) or not gpu.model.mig_capable:
        return ()
    geometry = geometry_of(gpu.model)
    return tuple(i for i, profile in enumerate(geometry.profiles) if not gpu.allowed or profile.name in gpu.allowed)


def _largest(gpus: Sequence[GpuState], signature: Sequence[int]) -> int:
    sizes = [
        1 << 16 if index == WHOLE else geometry_of(gpu.model).weight(index)
        for gpu, index in zip(gpus, signature, strict=True)
        if index != UNSERVED
    ]
    return max(sizes, default=1 << 20)


def _kept_slots(
    gpus: Sequence[GpuState],
    demands: Sequence[Demand],
    current: Mapping[str, Assignment],
    types: Sequence[Sequence[int]],
) -> list[frozenset[Slot]]:
    """Per GPU the (type, start) that demands hold now; a whole GPU is start 0."""
    index = {gpu.id: number for number, gpu in enumerate(gpus)}
    slots: list[set[Slot]] = [set() for _ in gpus]
    for number, members in enumerate(types):
        for demand in members:
            place = current.get(demands[demand].id)
            if place and place.gpu in index:
                slots[index[place.gpu]].add((number, place.placement.start if place.placement else 0))
    return [frozenset(found) for found in slots]


@lru_cache(maxsize=512)
def patterns_of(site: Site, wanted: Vector) -> tuple[Pattern, ...]:
    """All patterns of a GPU, the empty one first; each with the best (room, kept) over its layouts."""
    geometry, occupancy, allowed, served = site.geometry, site.occupancy, site.allowed, site.served
    before = geometry.room(occupancy, allowed)
    best: dict[Vector, tuple[int, int]] = {}
    makers: dict[Vector, tuple[int, ...] | None] = {}
    for (vector, mask), stayed in _layouts(site, wanted).items():
        if vector not in makers:
            makers[vector] = _creatable(geometry, occupancy, allowed, served, vector)
        creatable = makers[vector]
        if creatable is not None:
            score = (before - _room(geometry, creatable, mask), -stayed)
            best[vector] = min(best.get(vector, score), score)
    for t, i in enumerate(served):
        if i == WHOLE and wanted[t]:
            vector = tuple(int(k == t) for k in range(len(served)))
            best[vector] = (before, -int((t, 0) in site.kept))
    return tuple(Pattern(vector, lost, -stayed) for vector, (lost, stayed) in sorted(best.items()))


def _layouts(site: Site, wanted: Vector) -> dict[tuple[Vector, int], int]:
    """Every (vector, mask) without overlaps, with the largest number of demands that stay in place."""
    layouts: dict[tuple[Vector, int], int] = {((0,) * len(site.served), site.occupancy.mask): 0}
    for t, i in enumerate(site.served):
        if i >= 0:
            held = frozenset(start for kind, start in site.kept if kind == t)
            layouts = _extended(layouts, t, _subsets(site.geometry, i, wanted[t], held))
    return layouts


def _extended(
    layouts: Mapping[tuple[Vector, int], int], t: int, subsets: Sequence[tuple[int, int, int]]
) -> dict[tuple[Vector, int], int]:
    """The layouts with each choice of places for type `t` that does not overlap them."""
    grown: dict[tuple[Vector, int], int] = {}
    for (vector, mask), stayed in layouts.items():
        for number, taken, stays in subsets:
            if not mask & taken:
                key = ((*vector[:t], number, *vector[t + 1 :]), mask | taken)
                grown[key] = max(grown.get(key, 0), stayed + stays)
    return grown


def _subsets(geometry: Geometry, i: int, wanted: int, held: frozenset[int]) -> list[tuple[int, int, int]]:
    """(number, mask, how many of the held starts) for each choice of places of profile `i`."""
    most = min(wanted, geometry.profiles[i].max_instances)
    found = [(0, 0, 0)]
    for start, mask in geometry.slots[i]:
        stays = int(start in held)
        found += [(n + 1, taken | mask, s + stays) for n, taken, s in found if n < most and not taken & mask]
    return found


def _creatable(
    geometry: Geometry, occupancy: Occupancy, allowed: tuple[int, ...], served: tuple[int, ...], vector: Vector
) -> tuple[int, ...] | None:
    """Profiles of which one more may exist, largest first; None when the vector itself may not exist."""
    state = add_vector(geometry, occupancy, served, vector)
    if any(vector) and not geometry.counts_legal(state.counts, total=state.total, compute=state.compute):
        return None
    return tuple(sorted((i for i in allowed if geometry.can_add(state, i)), key=geometry.weight, reverse=True))


def _room(geometry: Geometry, creatable: tuple[int, ...], mask: int) -> int:
    for i in creatable:
        if any(not mask & place for _, place in geometry.slots[i]):
            return geometry.weight(i)
    return 0


def add_vector(geometry: Geometry, occupancy: Occupancy, served: tuple[int, ...], vector: Vector) -> Occupancy:
    """The counts of `occupancy` with the vector's instances added; the mask stays unchanged."""
    counts = list(occupancy.counts)
    compute = occupancy.compute
    for i, number in zip(served, vector, strict=True):
        if number and i >= 0:
            counts[i] += number
            compute += number * geometry.profiles[i].compute_slices
    return Occupancy(occupancy.mask, tuple(counts), occupancy.total + sum(vector), compute)


@lru_cache(maxsize=2048)
def best_layout(site: Site, vector: Vector) -> tuple[Slot, ...]:
    """Where the pattern's instances go, as (type, start): most room, most kept, most places left, lowest starts."""
    geometry, occupancy, allowed, served, kept = site.geometry, site.occupancy, site.allowed, site.served, site.kept
    state = add_vector(geometry, occupancy, served, vector)
    layouts: list[tuple[int, tuple[Slot, ...]]] = [(occupancy.mask, ())]
    for t, i in enumerate(served):
        if i < 0 or not vector[t]:
            continue
        choices: list[tuple[int, tuple[Slot, ...]]] = [(0, ())]
        for start, mask in geometry.slots[i]:
            choices += [(taken | mask, (*slots, (t, start))) for taken, slots in choices if not taken & mask]
        exact = [choice for choice in choices if len(choice[1]) == vector[t]]
        layouts = [(mask | taken, slots + more) for mask, slots in layouts for taken, more in exact if not mask & taken]

    def score(layout: tuple[int, tuple[Slot, ...]]) -> tuple[int, int, int, tuple[int, ...]]:
        mask, slots = layout
        after = Occupancy(mask, state.counts, state.total, state.compute)
        left = sum(len(geometry.free_starts(after, i)) for i in allowed)
        starts = tuple(start for _, start in slots)
        return -geometry.room(after, allowed), -len(kept.intersection(slots)), -left, starts

    return min(layouts, key=score)[1]
