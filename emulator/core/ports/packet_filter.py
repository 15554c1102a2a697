"""The port to the kernel's packet filter; see `ports`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from emulator.core.ports import Ownership


class FilterHook(StrEnum):
    """Where the kernel consults a chain: packets to the host, routed packets, and routed packets on their way out."""

    INPUT = "input"
    FORWARD = "forward"
    POSTROUTING = "postrouting"


@dataclass(frozen=True, slots=True)
class FilterRule:
    """One rule in the language of nft(8), with a comment of at most 127 characters."""

    text: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class FilterChain:
    """A chain; `hook` is None if others jump to it. Packets that no rule decides pass on to the tables of others."""

    name: str
    rules: tuple[FilterRule, ...]
    hook: FilterHook | None = None


@dataclass(frozen=True, slots=True)
class FilterTable:
    """A table of the `inet` family to create; its rules see IPv4 and IPv6."""

    name: str
    owner: Ownership
    chains: tuple[FilterChain, ...]


@dataclass(frozen=True, slots=True)
class FilterTableInfo:
    """A table as the kernel has it; `owner` is None for a foreign one.

    `parts` maps the names of its chains and other contents to digests, which stay the same as long as the table is
    unchanged. Counters are left out.
    """

    name: str
    owner: Ownership | None
    parts: Mapping[str, str] = field(default_factory=dict)


class PacketFilter(Protocol):
    """nftables in one network namespace. Only the named table is ever read or changed.

    Raises, from each method:
        HostNotFitError: nft is not installed, or the caller is not root.
        CommandError: nft refused; the table is unchanged.
    """

    def table(self, name: str) -> FilterTableInfo | None:
        """The table of this name, or None."""
        ...

    def replace(self, table: FilterTable) -> None:
        """Create the table or replace one of the same name, in one transaction: no packet sees half of it."""
        ...

    def delete(self, name: str) -> None:
        """Remove the table; nothing happens if it is absent."""
        ...
