"""The solver's question and answer: GPUs, demands, assignments."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from emulator.gpu.model import GpuInstance, GpuModel, Placement


class GpuUse(StrEnum):
    """What a GPU may serve. `closed`: nothing new, because it is down or another owner has it as a whole."""

    ANY = "any"
    SLICES = "slices"
    WHOLE = "whole"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class GpuState:
    """One GPU to plan on.

    Attributes:
        id: name in messages and assignments.
        model: catalogue entry or what NVML reported.
        instances: GPU instances that must stay in place. Movable ones are given to `solve` as `current`.
        allowed: profiles that may be created; empty allows all.
    """

    id: str
    model: GpuModel
    instances: tuple[GpuInstance, ...] = ()
    allowed: tuple[str, ...] = ()
    use: GpuUse = GpuUse.ANY


@dataclass(frozen=True, slots=True)
class Demand:
    """One slice or one whole GPU. `profile` None with `whole` False: the GPU's smallest allowed profile."""

    id: str
    profile: str | None = None
    whole: bool = False

    @property
    def kind(self) -> str:
        """The demand in words for a message."""
        return "whole GPU" if self.whole else self.profile or "slice of the smallest profile"


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where a demand goes. A whole GPU has neither profile nor placement."""

    demand: str
    gpu: str
    profile: str | None = None
    placement: Placement | None = None

    @property
    def whole(self) -> bool:
        return self.profile is None


@dataclass(frozen=True, slots=True)
class Solution:
    """A placement of every demand.

    Attributes:
        assignments: in the order of the demands.
        gpus_touched: GPUs that hold at least one assignment.
        room: sum over all GPUs of `Geometry.room` afterwards; larger means less fragmented.
        moves: ids of demands that leave their place in `current`.
        proved: every level of the objective is proved best. False can happen only to the last two levels
            (fragmentation, moves) on large fleets, when the search budget ended first.
    """

    assignments: tuple[Assignment, ...]
    gpus_touched: int
    room: int
    moves: tuple[str, ...] = ()
    proved: bool = True


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Proof that no placement of all demands exists.

    Attributes:
        reasons: why, one sentence each.
        changes: the smallest changes that would fit, each checked by solving the changed question.
        placed: a placement of a largest part of the demands, for pictures; empty if nothing can be placed.
        unplaced: ids of the demands missing in `placed`.
    """

    reasons: tuple[str, ...]
    changes: tuple[str, ...] = ()
    placed: tuple[Assignment, ...] = ()
    unplaced: tuple[str, ...] = ()
