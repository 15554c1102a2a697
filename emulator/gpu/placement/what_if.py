"""What-if questions without hardware and without a file: `--board A100-SXM4-80GB:2 --demand 1g.10gb=4,3g.40gb=1`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emulator.core.errors import UsageError
from emulator.gpu.catalog import close_names, find_board
from emulator.gpu.placement.demand import BoardState, Demand, Infeasible, Solution
from emulator.gpu.placement.explain import solve

MOST_BOARDS = 64
MOST_DEMANDS = 512
_WORDS = {"whole": Demand("", whole=True), "any": Demand("")}


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The question as understood, and the answer."""

    boards: tuple[BoardState, ...]
    demands: tuple[Demand, ...]
    answer: Solution | Infeasible


def what_if(board_specs: str | Sequence[str], demand: str) -> WhatIf:
    """Parse and solve.

    Args:
        board_specs: `MODEL[:COUNT]`, or several of them; boards are called GPU-0, GPU-1, ...
        demand: `PROFILE=COUNT` joined by commas; `whole=1` asks for whole boards, `any=3` for smallest slices.

    Raises:
        UsageError: a model or a count that cannot be understood. A profile that no board has is an answer
            (`Infeasible`), since it names the right ones.
    """
    boards = parse_boards([board_specs] if isinstance(board_specs, str) else board_specs)
    demands = parse_demands(demand)
    return WhatIf(boards, demands, solve(boards, demands))


def parse_boards(specs: Sequence[str]) -> tuple[BoardState, ...]:
    """Boards of `MODEL[:COUNT]` texts; see `what_if`."""
    boards: list[BoardState] = []
    for spec in specs:
        name, colon, count = spec.partition(":")
        model = find_board(name)
        if model is None:
            close = ", ".join(close_names(name))
            raise UsageError(
                f"no single board is called {name.strip()!r}",
                where=f"--board {spec}",
                fix=f"write one of: {close}" if close else "write a model such as A100-SXM4-80GB or H100-PCIe",
            )
        number = _count(count, f"--board {spec}", "MODEL:COUNT, such as A100-SXM4-80GB:2") if colon else 1
        if len(boards) + number > MOST_BOARDS:
            raise UsageError(f"more than {MOST_BOARDS} boards", where=f"--board {spec}", fix="ask for fewer")
        boards += [BoardState(f"GPU-{len(boards) + n}", model) for n in range(number)]
    if not boards:
        raise UsageError("no board is given", where="--board", fix="add --board A100-SXM4-80GB:2")
    return tuple(boards)


def parse_demands(text: str) -> tuple[Demand, ...]:
    """Demands of `PROFILE=COUNT,...`; ids are `<profile>-<number from 1>`; see `what_if`."""
    demands: list[Demand] = []
    seen: set[str] = set()
    for item in text.split(","):
        name, equals, count = (part.strip() for part in item.partition("="))
        where = f"--demand {text}"
        if not name:
            raise UsageError(f"{item!r} names no profile", where=where, fix="write PROFILE=COUNT, such as 1g.10gb=4")
        if name in seen:
            raise UsageError(f"{name} is asked for twice", where=where, fix="write it once, with the sum")
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
