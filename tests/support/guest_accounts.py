"""Guests' accounts in a test's own directory, with numbers that are the same in every run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from emulator.apply.guest_accounts.ledger import AccountLedger
from emulator.core.errors import HostNotFitError
from emulator.core.ports.guest_accounts import RESERVED

FIRST = RESERVED[0][0]


@dataclass
class CountedNumbers:
    """`AccountNumbers` of a host without anybody else; `left` is what still belongs to numbers, `ended` whose
    processes were to be ended."""

    first: int = FIRST
    count: int = 1000
    left: dict[int, str] = field(default_factory=dict)
    ended: list[frozenset[int]] = field(default_factory=list)

    def draw(self, held: Collection[int]) -> int:
        for number in range(self.first, self.first + self.count):
            if number not in held:
                return number
        raise HostNotFitError("no number is free")

    def end(self, numbers: Collection[int]) -> None:
        self.ended.append(frozenset(numbers))

    def traces(self, numbers: Collection[int]) -> Mapping[int, str]:
        return {number: what for number, what in self.left.items() if number in numbers}


def accounts_in(root: Path, *, home: str = "/home", numbers: CountedNumbers | None = None) -> AccountLedger:
    """A ledger in `root`; what is given to one is seen by the next."""
    return AccountLedger(root / "guest-accounts.json", root / "accounts.lock", numbers or CountedNumbers(), home=home)
