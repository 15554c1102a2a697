"""Address ranges of the lab file, and the free addresses of a subnet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network


@dataclass(frozen=True, slots=True)
class AddressRange:
    """`first` to `last`, both included."""

    first: IPv4Address
    last: IPv4Address

    def __len__(self) -> int:
        return int(self.last) - int(self.first) + 1

    def overlaps(self, other: AddressRange) -> bool:
        return self.first <= other.last and other.first <= self.last

    def head(self, count: int) -> AddressRange:
        """The part that `count` nodes use."""
        return AddressRange(self.first, min(self.last, self.first + max(count - 1, 0)))

    def addresses(self, count: int) -> tuple[IPv4Address, ...]:
        return tuple(self.first + offset for offset in range(min(count, len(self))))

    def __str__(self) -> str:
        if self.first == self.last:
            return str(self.first)
        front, _, tail = str(self.last).rpartition(".")
        return f"{self.first}-{tail}" if str(self.first).startswith(front + ".") else f"{self.first}-{self.last}"


def parse_range(text: str) -> AddressRange:
    """`192.168.100.11-14`, `192.168.100.11` or `192.168.100.11-192.168.100.14`.

    Raises:
        ValueError: it is none of these, or it ends before it begins.
    """
    start, dash, end = text.partition("-")
    first = IPv4Address(start)
    if not dash:
        return AddressRange(first, first)
    last = IPv4Address(end if "." in end else f"{start.rpartition('.')[0]}.{int(end)}")
    if last < first:
        raise ValueError(f"the range ends ({last}) before it begins ({first})")
    return AddressRange(first, last)


def usable(subnet: IPv4Network) -> AddressRange:
    """What nodes can have: all but the network address, the gateway (the first) and the broadcast address."""
    return AddressRange(subnet.network_address + 2, subnet.broadcast_address - 1)


def free_addresses(
    subnet: IPv4Network, *, start: IPv4Address, count: int, taken: Iterable[AddressRange]
) -> tuple[IPv4Address, ...]:
    """The first `count` free addresses from `start` on, then from the beginning; fewer when the subnet is full."""
    room = usable(subnet)
    blocked = tuple(taken)
    found: list[IPv4Address] = []
    for number in (*range(int(start), int(room.last) + 1), *range(int(room.first), int(start))):
        if len(found) == count:
            break
        address = IPv4Address(number)
        if not any(each.first <= address <= each.last for each in blocked):
            found.append(address)
    return tuple(found)
