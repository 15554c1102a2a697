"""Where slices would go: those of a lab file, or those that a question names. Reads no hardware and changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emulator.core.errors import UsageError
from emulator.core.paths import Home
from emulator.gpu.placement.demand import Assignment, GpuState, Infeasible
from emulator.gpu.placement.what_if import what_if
from emulator.labfile.model import ClusterSpec
from emulator.operations.gpu.reports import assignments_of, plan_file, recorded_state


@dataclass(frozen=True, slots=True)
class LayoutAnswer:
    """GPUs and what goes where.

    Attributes:
        gpus: the GPUs that were asked about, with what is on them already.
        placed: what has its place; all of it, unless it does not fit.
        infeasible: why it does not fit; None when it does.
        notes: what else the solver has to say.
    """

    gpus: tuple[GpuState, ...]
    placed: tuple[Assignment, ...]
    infeasible: Infeasible | None = None
    notes: tuple[str, ...] = ()


def layout_of_file(home: Home, spec: ClusterSpec, name: str) -> LayoutAnswer:
    """The layout of a lab file; what a lab of that name has already stays where it is.

    Raises:
        UsageError: the file `name` has no GPUs.
    """
    if not spec.gpu.devices:
        raise UsageError(f"{name} has no GPUs", fix="add global.gpu_allocation.devices; see docs/user/gpus.md")
    layout = plan_file(spec, recorded_state(home, spec.name))
    placed = tuple(assignments_of(layout))
    if isinstance(layout.answer, Infeasible):
        return LayoutAnswer(layout.gpus, placed, layout.answer)
    return LayoutAnswer(layout.gpus, placed, notes=layout.answer.notes)


def layout_of_question(gpus: Sequence[str], demand: str | None) -> LayoutAnswer:
    """What would fit on GPUs of these models (`MODEL[:COUNT]`).

    Raises:
        UsageError: models or demand are missing, or make no sense.
    """
    if demand is None or not gpus:
        raise UsageError("--gpu and --demand go together", fix="add --demand 1g.10gb=4 or --gpu A100-SXM4-80GB")
    asked = what_if(gpus, demand)
    if isinstance(asked.answer, Infeasible):
        return LayoutAnswer(asked.gpus, asked.answer.placed, asked.answer)
    return LayoutAnswer(asked.gpus, asked.answer.assignments)
