"""Exhaustive placement, written apart from the solver: the yardstick of its tests. Slow and obvious."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from emulator.gpu.model import GpuModel, MigProfile, Placement
from emulator.gpu.placement.demand import Assignment, Demand, GpuState, GpuUse

Standing = tuple[tuple[str, Placement], ...]
Score = tuple[int, int, int]


def legal(model: GpuModel, standing: Standing) -> bool:
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


def creatable(gpu: GpuState, standing: Standing) -> int:
    """Size of the largest profile that still fits: 16 * memory slices + compute slices."""
    best = 0
    for profile in choices(gpu):
        for placement in profile.placements or ():
            if legal(gpu.model, (*standing, (profile.name, placement))):
                best = max(best, 16 * placement.size + profile.compute_slices)
    return best


def choices(gpu: GpuState) -> list[MigProfile]:
    if gpu.use in (GpuUse.WHOLE, GpuUse.CLOSED):
        return []
    return [profile for profile in gpu.model.profiles if not gpu.allowed or profile.name in gpu.allowed]


def wanted_profile(gpu: GpuState, demand: Demand) -> MigProfile | None:
    offered = {profile.name: profile for profile in choices(gpu)}
    if demand.profile is not None:
        return offered.get(demand.profile)
    smallest = gpu.model.smallest_profile(gpu.allowed)
    return offered.get(smallest.name) if smallest else None


def solutions(gpus: Sequence[GpuState], demands: Sequence[Demand]) -> Iterator[tuple[Assignment, ...]]:
    """Every placement of all demands. Demands that ask the same are interchangeable only to the caller."""

    def extend(
        standing: dict[str, Standing], whole: frozenset[str], rest: Sequence[Demand], done: tuple[Assignment, ...]
    ) -> Iterator[tuple[Assignment, ...]]:
        if not rest:
            yield done
            return
        demand = rest[0]
        for gpu in gpus:
            if gpu.id in whole:
                continue
            if demand.whole:
                if gpu.use in (GpuUse.ANY, GpuUse.WHOLE) and not standing[gpu.id]:
                    yield from extend(standing, whole | {gpu.id}, rest[1:], (*done, Assignment(demand.id, gpu.id)))
                continue
            profile = wanted_profile(gpu, demand)
            if profile is None:
                continue
            for placement in profile.placements or ():
                after = (*standing[gpu.id], (profile.name, placement))
                if legal(gpu.model, after):
                    where = Assignment(demand.id, gpu.id, profile.name, placement)
                    yield from extend({**standing, gpu.id: after}, whole, rest[1:], (*done, where))

    start = {gpu.id: tuple((i.profile, i.placement) for i in gpu.instances) for gpu in gpus}
    yield from extend(start, frozenset(), demands, ())


def layout(assignments: Iterable[Assignment]) -> Standing:
    """The slices among the assignments, as they stand on a GPU."""
    return tuple((a.profile, a.placement) for a in assignments if a.profile is not None and a.placement is not None)


def score(gpus: Sequence[GpuState], answer: Sequence[Assignment], current: Mapping[str, Assignment]) -> Score:
    """(GPUs touched, minus the room left, moves): smaller is better."""
    room = 0
    for gpu in gpus:
        mine = [where for where in answer if where.gpu == gpu.id]
        if any(where.whole for where in mine):
            continue
        standing = tuple((i.profile, i.placement) for i in gpu.instances)
        room += creatable(gpu, standing + layout(mine))
    moves = sum(where.demand in current and current[where.demand] != where for where in answer)
    return len({where.gpu for where in answer}), -room, moves


def best_score(gpus: Sequence[GpuState], demands: Sequence[Demand], current: Mapping[str, Assignment]) -> Score | None:
    """The best score of all placements; None when there are none."""
    return min((score(gpus, answer, current) for answer in solutions(gpus, demands)), default=None)
