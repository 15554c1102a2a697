"""What-if questions without hardware and without a file: `--gpu A100-SXM4-80GB:2 --demand 1g.10gb=4,3g.40gb=1`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emulator.core.errors import UsageError
from emulator.gpu.catalog import close_names, find_gpu
from emulator.gpu.placement.demand import Demand, GpuState, Infeasible, Solution
from emulator.gpu.placement.explain import solve

MOST_GPUS = 64
MOST_DEMANDS = 512
_WORDS = {"whole": Demand("", whole=True), "any": Demand("")}


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The parsed question and its answer."""

    gpus: tuple[GpuState, ...]
    demands: tuple[Demand, ...]
    answer: Solution | Infeasible


def what_if(gpu_specs: str | Sequence[str], demand: str) -> WhatIf:
    """Parse and solve.

    Args:
        gpu_specs: `MODEL[:COUNT]`, or several of them; GPUs are called GPU-0, GPU-1, ...
        demand: `PROFILE=COUNT` joined by commas; `whole=1` means whole GPUs, `any=3` smallest slices.

    Raises:
        UsageError: a model or a count cannot be understood. A profile that no GPU has leads to `Infeasible`, which
            names the right ones.
    """
    gpus = parse_gpus([gpu_specs] if isinstance(gpu_specs, str) else gpu_specs)
    demands = parse_demands(demand)
    return WhatIf(gpus, demands, solve(gpus, demands))


def parse_gpus(specs: Sequence[str]) -> tuple[GpuState, ...]:
    """GPUs of `MODEL[:COUNT]` texts; see `what_if`."""
    gpus: list[GpuState] = []
    for spec in specs:
        name, colon, count = spec.partition(":")
        model = find_gpu(name)
        if model is None:
            close = ", ".join(close_names(name))
            raise UsageError(
                f"no single GPU is called {name.strip()!r}",
                where=f"--gpu {spec}",
                fix=f"write one of: {close}" if close else "write a model such as A100-SXM4-80GB or H100-PCIe",
            )
        number = _count(count, f"--gpu {spec}", "MODEL:COUNT, such as A100-SXM4-80GB:2") if colon else 1
        if len(gpus) + number > MOST_GPUS:
            raise UsageError(f"more than {MOST_GPUS} GPUs", where=f"--gpu {spec}", fix="ask for fewer")
        gpus += [GpuState(f"GPU-{len(gpus) + n}", model) for n in range(number)]
    if not gpus:
        raise UsageError("no GPU given", where="--gpu", fix="add --gpu A100-SXM4-80GB:2")
    return tuple(gpus)


def parse_demands(text: str) -> tuple[Demand, ...]:
    """Demands of `PROFILE=COUNT,...`; ids are `<profile>-<number from 1>`; see `what_if`."""
    demands: list[Demand] = []
    seen: set[str] = set()
    for item in text.split(","):
        name, equals, count = (part.strip() for part in item.partition("="))
        where = f"--demand {text}"
        if not name:
            raise UsageError(
                f"{item!r} does not name a profile", where=where, fix="write PROFILE=COUNT, such as 1g.10gb=4"
            )
        if name in seen:
            raise UsageError(f"{name} occurs twice", where=where, fix="write it once, with the sum")
        seen.add(name)
        number = _count(count, where, "PROFILE=COUNT, such as 1g.10gb=4") if equals else 1
        if len(demands) + number > MOST_DEMANDS:
            raise UsageError(f"more than {MOST_DEMANDS} demands", where=where, fix="ask for fewer")
        kind = _WORDS.get(name, Demand("", name))
        demands += [Demand(f"{name}-{n + 1}", kind.profile, whole=kind.whole) for n in range(number)]
    return tuple(demands)


def _count(text: str, where: str, form: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 4 and int(digits) > 0):
        raise UsageError(f"{digits!r} is not a count of 1 or more", where=where, fix=f"write {form}")
    return int(digits)
