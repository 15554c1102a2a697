"""The content of a picture of GPUs, independent of drawing: segments over the memory slices of each GPU."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from emulator.gpu.geometry import geometry_of
from emulator.gpu.model import GpuInstance
from emulator.gpu.placement.demand import Assignment, GpuState, GpuUse


class SegmentKind(StrEnum):
    """`assigned`: given by the plan. `standing`: there before. `free`: an instance can still be created on it.
    `stranded`: none can. `whole`: the GPU goes to one guest."""

    ASSIGNED = "assigned"
    STANDING = "standing"
    FREE = "free"
    STRANDED = "stranded"
    WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Segment:
    """Memory slices from `start` to before `end`; `label` is the profile, `holder` its owner, both empty if unused."""

    kind: SegmentKind
    start: int
    end: int
    label: str = ""
    holder: str = ""


@dataclass(frozen=True, slots=True)
class GpuPicture:
    """One GPU. `slices` is its number of memory slices, 1 if the GPU cannot be partitioned."""

    id: str
    product: str
    slices: int
    segments: tuple[Segment, ...]
    creatable: str

    @property
    def title(self) -> str:
        return f"{self.id}  {self.product}"


def picture_of(gpus: Sequence[GpuState], assignments: Iterable[Assignment] = ()) -> tuple[GpuPicture, ...]:
    """Pictures of all GPUs with the assignments on them, in the GPUs' order."""
    placed = list(assignments)
    return tuple(_gpu(gpu, [where for where in placed if where.gpu == gpu.id]) for gpu in gpus)


def _gpu(gpu: GpuState, placed: Sequence[Assignment]) -> GpuPicture:
    slices = gpu.model.memory_slices or 1
    whole = [where for where in placed if where.whole]
    if whole:
        segment = Segment(SegmentKind.WHOLE, 0, slices, "whole GPU", whole[0].demand)
        return GpuPicture(gpu.id, gpu.model.product_name, slices, (segment,), "")
    given = [
        (GpuInstance(where.profile, where.placement, owner=where.demand), SegmentKind.ASSIGNED)
        for where in placed
        if where.profile and where.placement
    ]
    standing = [(instance, SegmentKind.STANDING) for instance in gpu.instances]
    found = [
        Segment(kind, item.placement.start, item.placement.end, item.profile, item.owner or "")
        for item, kind in (*given, *standing)
    ]
    usable, largest = _usable(gpu, [item for item, _ in (*given, *standing)])
    taken = 0
    for item, _ in (*given, *standing):
        taken |= item.placement.mask
    found += _gaps(slices, taken, usable)
    found.sort(key=lambda segment: segment.start)
    return GpuPicture(gpu.id, gpu.model.product_name, slices, tuple(found), largest)


def _usable(gpu: GpuState, instances: Sequence[GpuInstance]) -> tuple[int, str]:
    """A mask of the slices on which an instance can still be created, and the largest such profile."""
    if gpu.use in (GpuUse.WHOLE, GpuUse.CLOSED) or not gpu.model.mig_capable:
        whole = gpu.use in (GpuUse.WHOLE, GpuUse.ANY) and not instances
        return (-1 if whole else 0), ("whole GPU" if whole else "")
    geometry = geometry_of(gpu.model)
    state = geometry.occupancy(instances)
    usable, largest = 0, (0, "")
    for i, profile in enumerate(geometry.profiles):
        starts = geometry.free_starts(state, i) if not gpu.allowed or profile.name in gpu.allowed else ()
        for start, mask in geometry.slots[i]:
            if start in starts:
                usable |= mask
                largest = max(largest, (geometry.weight(i), profile.name), key=lambda item: item[0])
    return usable, largest[1]


def _gaps(slices: int, taken: int, usable: int) -> list[Segment]:
    """Runs of slices without an instance, split between usable and stranded ones."""
    gaps: list[Segment] = []
    for n in range(slices):
        if taken >> n & 1:
            continue
        kind = SegmentKind.FREE if usable >> n & 1 else SegmentKind.STRANDED
        if gaps and gaps[-1].end == n and gaps[-1].kind is kind:
            gaps[-1] = Segment(kind, gaps[-1].start, n + 1)
        else:
            gaps.append(Segment(kind, n, n + 1))
    return gaps
