"""Reasons why demands do not fit, and the smallest changes that would make them fit.

Every suggestion has been tried: the question is solved again with the change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement

from emulator.gpu.geometry import geometry_of
from emulator.gpu.model import GpuInstance
from emulator.gpu.placement.demand import Assignment, Demand, GpuState, GpuUse, Infeasible, Solution
from emulator.gpu.placement.solver import DEFAULT_BUDGET, place
from emulator.gpu.placement.solver_patterns import UNSERVED, served_profile

_MOST_DROPPED = 3  # above so many demands the least set to drop is not searched for exactly
_MOST_TRIED = 300
_GPUS_SHOWN = 3
_BLOCKERS_SHOWN = 4


def solve(
    gpus: Sequence[GpuState],
    demands: Sequence[Demand],
    *,
    current: Mapping[str, Assignment] | None = None,
    pinned: Collection[str] = (),
    budget: int = DEFAULT_BUDGET,
) -> Solution | Infeasible:
    """`solver.place`, with reasons and remedies instead of None. Same arguments, same errors."""
    found = place(gpus, demands, current=current, pinned=pinned, budget=budget)
    if found is not None:
        return found
    return _Question(gpus, demands, current or {}, pinned).explain()


class _Question:
    """An infeasible question and the changes tried on it."""

    def __init__(
        self,
        gpus: Sequence[GpuState],
        demands: Sequence[Demand],
        current: Mapping[str, Assignment],
        pinned: Collection[str],
    ) -> None:
        self._gpus, self._demands, self._current, self._pinned = gpus, demands, current, pinned

    def _try(self, gpus: Sequence[GpuState], demands: Sequence[Demand]) -> Solution | None:
        return place(gpus, demands, current=self._current, pinned=self._pinned, budget=0)

    def explain(self) -> Infeasible:
        hopeless = self._hopeless()
        if hopeless:
            gone = {demand.id for demand in self._demands if demand.kind in hopeless}
            rest = [demand for demand in self._demands if demand.id not in gone]
            pinned = [name for name in self._pinned if name not in gone]
            others = solve(self._gpus, rest, current=self._current, pinned=pinned, budget=0)
            reasons, changes = tuple(hopeless.values()), self._names(hopeless)
            if isinstance(others, Solution):
                return Infeasible(reasons, changes, others.assignments, _in_order(self._demands, gone))
            gone.update(others.unplaced)
            return Infeasible(
                reasons + others.reasons, changes + others.changes, others.placed, _in_order(self._demands, gone)
            )
        dropped, part = self._least_dropped()
        placed = part.assignments if part else ()
        causes = [self._sum(), *self._blocked(dropped, placed)]
        remedies: list[str] = []
        if dropped:
            remedies.append(f"drop {_counted(demand.kind for demand in dropped)}")
        remedies += [*self._moves(), *self._more_gpus()]
        return Infeasible(tuple(causes), tuple(remedies), placed, tuple(demand.id for demand in dropped))

    def _hopeless(self) -> dict[str, str]:
        """Kinds that no GPU serves, each with the reason."""
        reasons = {}
        for demand in self._demands:
            if demand.kind not in reasons and all(
                served_profile(gpu, demand, empty=not gpu.instances) == UNSERVED for gpu in self._gpus
            ):
                reasons[demand.kind] = self._why_unserved(demand)
        return reasons

    def _why_unserved(self, demand: Demand) -> str:
        if not self._gpus:
            return "there are no GPUs"
        if demand.whole:
            return "no GPU is free as a whole: each has GPU instances or is kept for slices"
        name = demand.profile
        having = [gpu for gpu in self._gpus if name is None or gpu.model.profile(name)]
        unknown = [gpu for gpu in having if not gpu.model.placements_known and gpu.model.mig_capable]
        if unknown:
            return (
                f"the legal placements on {unknown[0].model.product_name} are not public: "
                "they have to be read from the GPU itself"
            )
        if not having:
            models = ", ".join(sorted({gpu.model.product_name for gpu in self._gpus}))
            return f"no GPU has the profile {name} ({models})"
        if all(gpu.use in (GpuUse.WHOLE, GpuUse.CLOSED) for gpu in having):
            return f"every GPU that has {demand.kind} is kept for whole-GPU use"
        if not any(gpu.model.mig_capable for gpu in having):
            return "no GPU can be cut into slices"
        return f"{demand.kind} is not among the allowed profiles of any GPU"

    def _names(self, hopeless: Collection[str]) -> tuple[str, ...]:
        names = {
            profile.name
            for gpu in self._gpus
            if gpu.use in (GpuUse.ANY, GpuUse.SLICES)
            for profile in gpu.model.profiles
            if profile.placements is not None and (not gpu.allowed or profile.name in gpu.allowed)
        }
        sliced = [kind for kind in hopeless if kind != Demand("", whole=True).kind]
        return (f"use one of {', '.join(sorted(names))}",) if names and sliced else ()

    def _sum(self) -> str:
        """The demands compared with the GPUs, in memory slices."""
        what = _counted(demand.kind for demand in self._demands)
        where = f"{len(self._gpus)} GPU{'' if len(self._gpus) == 1 else 's'}"
        free = sum(_free_slices(gpu) for gpu in self._gpus)
        needed = sum(self._least_slices(demand) for demand in self._demands)
        if needed > free:
            return f"{what} take at least {needed} memory slices, and {where} have {free} free"
        return (
            f"{what} take {needed} of {free} free memory slices on {where}, but no set of legal starts holds them all"
        )

    def _least_slices(self, demand: Demand) -> int:
        sizes = []
        for gpu in self._gpus:
            index = served_profile(gpu, demand, empty=not gpu.instances)
            if index >= 0:
                sizes.append(geometry_of(gpu.model).profiles[index].memory_slices or 0)
            elif index != UNSERVED:
                sizes.append(gpu.model.memory_slices or 0)
        return min(sizes, default=0)

    def _least_dropped(self) -> tuple[list[Demand], Solution | None]:
        """A smallest set of demands without which the others fit; small demands are dropped before large ones."""
        free = [demand for demand in self._demands if demand.id not in self._pinned]
        kinds = sorted({demand.kind for demand in free}, key=lambda kind: self._rank(free, kind))
        tried = 0
        for number in range(1, _MOST_DROPPED + 1):
            for names in combinations_with_replacement(kinds, number):
                dropped = _last_of(free, Counter(names))
                tried += 1
                if dropped is None or tried > _MOST_TRIED:
                    continue
                part = self._try(self._gpus, [demand for demand in self._demands if demand not in dropped])
                if part is not None:
                    return dropped, part
        return self._greedy(free)

    def _rank(self, demands: Sequence[Demand], kind: str) -> tuple[int, str]:
        return self._least_slices(next(demand for demand in demands if demand.kind == kind)), kind

    def _greedy(self, free: Sequence[Demand]) -> tuple[list[Demand], Solution | None]:
        """Drop small demands until the rest fits, by bisection, since fewer demands never fit worse."""
        order = sorted(free, key=self._least_slices, reverse=True)  # the last of the smallest are dropped first
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            gone = {demand.id for demand in order[len(order) - middle :]}
            if self._try(self._gpus, [demand for demand in self._demands if demand.id not in gone]):
                high = middle
            else:
                low = middle + 1
        gone = {demand.id for demand in order[len(order) - low :]}
        kept = [demand for demand in self._demands if demand.id not in gone]
        return [demand for demand in self._demands if demand.id in gone], self._try(self._gpus, kept)

    def _blocked(self, dropped: Sequence[Demand], placed: Sequence[Assignment]) -> Iterator[str]:
        """The obstacles to the first demand without a place, GPU by GPU."""
        if not dropped:
            return
        for gpu in self._gpus[:_GPUS_SHOWN]:
            index = served_profile(gpu, dropped[0], empty=not gpu.instances)
            if index < 0:
                continue
            profile = geometry_of(gpu.model).profiles[index]
            standing = [*gpu.instances, *_placed_on(gpu, placed)]
            blocked: dict[str, list[str]] = {}
            for placement in profile.placements or ():
                by = ", ".join(_instance_text(item) for item in standing if item.placement.overlaps(placement))
                if by:
                    blocked.setdefault(by, []).append(str(placement.start))
            if any(where.whole for where in placed if where.gpu == gpu.id):
                yield f"{gpu.id} goes to a whole-GPU demand"
            elif blocked:
                parts = [f"start {', '.join(starts)} by {by}" for by, starts in blocked.items()]
                more = f"; and {len(parts) - _BLOCKERS_SHOWN} more" if len(parts) > _BLOCKERS_SHOWN else ""
                yield f"{profile.name} on {gpu.id} is blocked at {'; at '.join(parts[:_BLOCKERS_SHOWN])}{more}"
            elif gpu.use in (GpuUse.ANY, GpuUse.SLICES):
                yield f"{profile.name} on {gpu.id}: no more of it may exist together with the present instances"

    def _moves(self) -> Iterator[str]:
        """One existing instance whose move would make room."""
        for n, gpu in enumerate(self._gpus):
            for instance in gpu.instances:
                left = tuple(item for item in gpu.instances if item is not instance)
                demand = Demand("\0moved", instance.profile)
                gpus = [*self._gpus[:n], replace(gpu, instances=left), *self._gpus[n + 1 :]]
                found = self._try(gpus, [*self._demands, demand])
                if found is None:
                    continue
                to = found.assignments[-1]
                start = to.placement.start if to.placement else 0
                busy = ", once its holder has stopped" if instance.busy else ""
                yield f"move {_instance_text(instance)} from {gpu.id} to start {start} of {to.gpu}{busy}"
                return

    def _more_gpus(self) -> Iterator[str]:
        models = {gpu.model.id: gpu for gpu in self._gpus if gpu.use is not GpuUse.CLOSED}
        for gpu in models.values():
            extra = replace(gpu, id="\0extra", instances=())
            if self._try([*self._gpus, extra], self._demands):
                yield f"add one more {gpu.model.product_name}"
                return


def _in_order(demands: Sequence[Demand], ids: Collection[str]) -> tuple[str, ...]:
    return tuple(demand.id for demand in demands if demand.id in ids)


def _last_of(demands: Sequence[Demand], wanted: Counter[str]) -> list[Demand] | None:
    """The last demands of each kind; None if there are too few."""
    chosen = []
    for demand in reversed(demands):
        if wanted[demand.kind]:
            wanted[demand.kind] -= 1
            chosen.append(demand)
    return None if wanted.total() else chosen


def _placed_on(gpu: GpuState, placed: Sequence[Assignment]) -> list[GpuInstance]:
    return [
        GpuInstance(where.profile, where.placement, owner=where.demand)
        for where in placed
        if where.gpu == gpu.id and where.profile and where.placement
    ]


def _free_slices(gpu: GpuState) -> int:
    if gpu.use is GpuUse.CLOSED:
        return 0
    taken = 0
    for instance in gpu.instances:
        taken |= instance.placement.mask
    return (gpu.model.memory_slices or 0) - taken.bit_count()


def _instance_text(instance: GpuInstance) -> str:
    owner = f" ({instance.owner})" if instance.owner else ""
    return f"{instance.profile} at start {instance.placement.start}{owner}"


def _counted(kinds: Iterator[str] | Sequence[str]) -> str:
    return " and ".join(f"{number} x {kind}" for kind, number in Counter(kinds).items())
