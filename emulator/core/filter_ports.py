"""The seam to the kernel's packet filter; see `ports.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from emulator.core.ports import Ownership


class FilterHook(StrEnum):
    """Where the kernel asks a chain: packets for the host, packets that it routes, routed ones on their way out."""

    INPUT = "input"
    FORWARD = "forward"
    POSTROUTING = "postrouting"


@dataclass(frozen=True, slots=True)
class FilterRule:
    """One rule in the language of nft(8), and a comment of at most 127 characters that is kept with it."""

    text: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class FilterChain:
    """`hook` None: a chain that others jump to. What no rule decides passes on, to the tables of others."""

    name: str
    rules: tuple[FilterRule, ...]
    hook: FilterHook | None = None


@dataclass(frozen=True, slots=True)
class FilterTable:
    """A table of the `inet` family to make; its rules see IPv4 and IPv6."""

    name: str
    owner: Ownership
    chains: tuple[FilterChain, ...]


@dataclass(frozen=True, slots=True)
class FilterTableInfo:
    """A table as the kernel has it; `owner` None means that it is not ours.

    `parts` are digests of its chains and whatever else is in it, by name: two looks at a table that nobody has
    changed give the same ones. Counters do not count.
    """

    name: str
    owner: Ownership | None
    parts: Mapping[str, str] = field(default_factory=dict)


class PacketFilter(Protocol):
    """nftables in one network namespace. No other table than the one named is ever looked into or changed.

    Raises, from each method:
        HostNotFitError: nft is not installed, or we are not root.
        CommandError: nft refused; the table is as it was.
    """

    def table(self, name: str) -> FilterTableInfo | None:
        """The table of this name; None when there is none."""
        ...

    def replace(self, table: FilterTable) -> None:
        """Make the table, or put it in the place of one of the same name, in one step: no packet sees half of it."""
        ...

    def delete(self, name: str) -> None:
        """Remove the table; absent is fine."""
        ...
