"""What fits on one GPU: the rules of MIG placement, as integer arithmetic over bitmasks of memory slices.

The rules, each from NVIDIA's MIG guide: an instance sits on one of its profile's listed placements; placements do not
overlap; a profile exists at most `max_instances` times and a GPU holds at most `max_gpu_instances`; one instance
holds the JPEG and OFA engines (`+me`), and next to one that takes all media engines (`+me.all`) only `-me` profiles
can exist. Non-overlap keeps every listed GPU within its compute slices; the sum is checked all the same, since
NVML may report a GPU that the catalogue does not know.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from emulator.gpu.model import GpuInstance, GpuModel, MigProfile

Counts = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Occupied parts of a GPU: covered memory slices, instances by profile index, and totals."""

    mask: int
    counts: Counts
    total: int
    compute: int


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """A GPU model compiled for planning. Profile `i` has `slots[i]`: its (start, mask) pairs by start.

    Compared by identity: `geometry_of` returns the same object for equal GPUs, and tables are cached by it.
    """

    profiles: tuple[MigProfile, ...]
    slots: tuple[tuple[tuple[int, int], ...], ...]
    max_gpu_instances: int
    compute_slices: int

    def index(self, name: str) -> int | None:
        return next((i for i, profile in enumerate(self.profiles) if profile.name == name), None)

    def weight(self, i: int) -> int:
        """Rank of a profile by size: memory slices first, then compute slices. The unit of `room`."""
        profile = self.profiles[i]
        return (profile.memory_slices or 0) * 16 + profile.compute_slices

    def occupancy(self, instances: Iterable[GpuInstance]) -> Occupancy:
        """The parts that `instances` occupy. An instance of an unlisted profile still occupies its memory slices."""
        mask = total = compute = 0
        counts = [0] * len(self.profiles)
        for instance in instances:
            mask |= instance.placement.mask
            total += 1
            i = self.index(instance.profile)
            if i is not None:
                counts[i] += 1
                compute += self.profiles[i].compute_slices
        return Occupancy(mask, tuple(counts), total, compute)

    def counts_legal(self, counts: Sequence[int], *, total: int, compute: int) -> bool:
        """Whether so many instances of each profile may exist together, regardless of placements."""
        if total > self.max_gpu_instances or compute > self.compute_slices:
            return False
        media = all_media = plain = 0
        for profile, count in zip(self.profiles, counts, strict=True):
            if count > profile.max_instances:
                return False
            media += count if profile.media_extensions else 0
            all_media += count if profile.takes_all_media else 0
            plain += 0 if profile.without_media else count
        return media <= 1 and (not all_media or plain == all_media)

    def can_add(self, state: Occupancy, i: int) -> bool:
        """Whether one more of profile `i` is allowed by the counts."""
        counts = (*state.counts[:i], state.counts[i] + 1, *state.counts[i + 1 :])
        compute = state.compute + self.profiles[i].compute_slices
        return self.counts_legal(counts, total=state.total + 1, compute=compute)

    def free_starts(self, state: Occupancy, i: int) -> tuple[int, ...]:
        """Starts at which profile `i` can be created now."""
        if not self.can_add(state, i):
            return ()
        return tuple(start for start, mask in self.slots[i] if not mask & state.mask)

    def room(self, state: Occupancy, allowed: Collection[int] | None = None) -> int:
        """`weight` of the largest profile that can still be created; 0 when nothing can."""
        choice = range(len(self.profiles)) if allowed is None else allowed
        return max((self.weight(i) for i in choice if self.free_starts(state, i)), default=0)


@lru_cache(maxsize=256)
def geometry_of(gpu: GpuModel) -> Geometry:
    """The compiled geometry, without profiles whose placements are unknown."""
    known = tuple(profile for profile in gpu.profiles if profile.placements is not None)
    return Geometry(
        profiles=known,
        slots=tuple(
            tuple((place.start, place.mask) for place in sorted(profile.placements or ())) for profile in known
        ),
        max_gpu_instances=gpu.max_gpu_instances,
        compute_slices=gpu.compute_slices,
    )


def layout_fault(gpu: GpuModel, layout: Iterable[tuple[str, int]]) -> str | None:
    """Why `layout`, pairs of (profile name, start), cannot exist on the GPU; None when it can."""
    geometry = geometry_of(gpu)
    mask = total = compute = 0
    counts = [0] * len(geometry.profiles)
    for name, start in layout:
        i = geometry.index(name)
        if i is None:
            return f"{gpu.product_name} has no profile {name}"
        place = dict(geometry.slots[i]).get(start)
        if place is None:
            starts = ", ".join(str(s) for s, _ in geometry.slots[i])
            return f"{name} cannot start at memory slice {start} (legal: {starts})"
        if mask & place:
            return f"{name} at memory slice {start} overlaps another instance"
        mask |= place
        counts[i] += 1
        total += 1
        compute += geometry.profiles[i].compute_slices
    if not geometry.counts_legal(counts, total=total, compute=compute):
        return "the instances exceed what the GPU allows together (count of a profile, media engines or total)"
    return None


def is_legal_layout(gpu: GpuModel, layout: Iterable[tuple[str, int]]) -> bool:
    """Whether all (profile name, start) pairs can exist on the GPU at once."""
    return layout_fault(gpu, layout) is None


def feasible_multisets(gpu: GpuModel, profiles: Collection[str] = ()) -> frozenset[Counts]:
    """Every non-empty multiset of profiles that fits on an empty GPU, as counts in the order of `profiles`.

    An empty `profiles` means all profiles with known placements, in the GPU's order. An A100's six profiles
    without `+me` give 77.
    """
    geometry = geometry_of(gpu)
    names = tuple(profiles) or tuple(profile.name for profile in geometry.profiles)
    wanted = [i for i in (geometry.index(name) for name in names) if i is not None]
    found = {tuple(counts[i] for i in wanted) for counts, _ in _states(geometry, tuple(wanted))}
    return frozenset(counts for counts in found if any(counts))


def _states(geometry: Geometry, wanted: tuple[int, ...]) -> set[tuple[Counts, int]]:
    """All (counts, mask) that some legal layout of the wanted profiles reaches."""
    states = {((0,) * len(geometry.profiles), 0)}
    for i in wanted:
        subsets = tuple(disjoint_subsets(geometry.slots[i], geometry.profiles[i].max_instances))
        states = {
            ((*counts[:i], number, *counts[i + 1 :]), mask | taken)
            for counts, mask in states
            for number, taken in subsets
            if not mask & taken
        }
    return {state for state in states if _legal(geometry, state[0])}


def _legal(geometry: Geometry, counts: Counts) -> bool:
    compute = sum(n * profile.compute_slices for n, profile in zip(counts, geometry.profiles, strict=True))
    return geometry.counts_legal(counts, total=sum(counts), compute=compute)


def disjoint_subsets(slots: Sequence[tuple[int, int]], most: int) -> Iterator[tuple[int, int]]:
    """(number, joint mask) of every set of at most `most` slots that do not overlap, the empty set included."""
    stack = [(0, 0, 0)]
    while stack:
        first, number, mask = stack.pop()
        yield number, mask
        if number < most:
            for k in range(first, len(slots)):
                if not mask & slots[k][1]:
                    stack.append((k + 1, number + 1, mask | slots[k][1]))
