"""Networks that the host has routes to, from `/proc/net/route` and `/proc/net/ipv6_route`. Pure.

Only the kernel's main table is shown there: routes of VRFs and of policy routing (WireGuard's default route among them)
are in others.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import accumulate

from emulator.core.address_ranges import is_within

Subnet = IPv4Network | IPv6Network

# Of <linux/ipv6_route.h>: RTF_LOCAL and RTF_ANYCAST, routes of addresses of the host itself. Of <linux/route.h>:
# RTF_REJECT, which IPv6 shows of blackhole, unreachable and prohibit routes.
_OWN_ADDRESS = 0x80000000 | 0x00100000
_REJECT = 0x0200
_NOWHERE = "*"
"""What the kernel writes in place of an interface for routes that discard packets."""

# A route with a shorter prefix leads to no particular network: it is the default route or a piece of it. The largest
# networks of one owner are 10.0.0.0/8 and, in IPv6, 2002::/16. VPNs cut the default route into pieces (0.0.0.0/1 and
# 128.0.0.0/1, 2000::/3, fc00::/7), so that theirs takes precedence over the host's own.
_SHORTEST = {4: 8, 6: 16}
# Blocks around a network are compared in steps of so many bits: 10.0.0.0/24, then its /20, /16 ...
_STEP = 4
# The addresses that other hosts have.
_SPACE: dict[int, Subnet] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("2000::/3")}


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """A network that the host has a route to: through an interface, or `*` for one whose packets it discards."""

    interface: str
    subnet: Subnet

    @property
    def is_discarded(self) -> bool:
        return self.interface == _NOWHERE

    @property
    def use(self) -> str:
        """A predicate for `which this host`: what the host does with the network."""
        if self.is_discarded:
            return "discards (a blackhole, unreachable or prohibit route)"
        return f"reaches through {self.interface}"

    def __str__(self) -> str:
        return f"{self.subnet} ({'discarded' if self.is_discarded else self.interface})"

    def blocks(self, subnet: Subnet) -> bool:
        """Whether a lab cannot have `subnet` on this host.

        The longest prefix wins: inside a large network that is discarded a lab's own works, and what lies in the
        lab's network stays discarded.
        """
        if self.is_discarded:
            return is_within(self.subnet, subnet)
        return self.subnet.overlaps(subnet)


def reached_networks(routes: str, ipv6_routes: str) -> tuple[HostNetwork, ...]:
    """From the texts of `/proc/net/route` and `/proc/net/ipv6_route`; a kernel without IPv6 has no second one."""
    return (*parse_routes(routes), *parse_ipv6_routes(ipv6_routes))


def parse_routes(text: str) -> tuple[HostNetwork, ...]:
    """`/proc/net/route` as networks, the default route left out, whole or in pieces.

    Addresses are 32-bit words in the host's byte order, in hexadecimal.
    """
    return tuple(dict.fromkeys(_without_default(list(_routes(text.splitlines()[1:])))))


def _routes(lines: Iterable[str]) -> Iterator[HostNetwork]:
    for line in lines:
        fields = line.split()
        if len(fields) < 8:
            continue
        try:
            subnet = IPv4Network((_address(fields[1]), str(_address(fields[7]))))
        except (ValueError, struct.error):
            continue
        if _is_of_others(subnet):
            yield HostNetwork(fields[0], subnet)


def _is_of_others(subnet: Subnet) -> bool:
    return not (subnet.is_loopback or subnet.is_multicast or subnet.is_link_local)


def parse_ipv6_routes(text: str) -> tuple[HostNetwork, ...]:
    """`/proc/net/ipv6_route` as networks, the default route left out, whole or in pieces.

    An address of the host's own counts where no route leads to its network.
    """
    found: list[HostNetwork] = []
    own: list[HostNetwork] = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 10:
            continue
        try:
            subnet = IPv6Network((bytes.fromhex(fields[0]), int(fields[1], 16)))
            flags = int(fields[8], 16)
        except ValueError:
            continue
        # Routes of the loopback interface are the host's own addresses and discarded networks.
        interface = _NOWHERE if flags & _REJECT else fields[9]
        if interface != "lo" and _is_of_others(subnet):
            (own if flags & _OWN_ADDRESS else found).append(HostNetwork(interface, subnet))
    found = _without_default(found)
    found += [each for each in own if not any(each.subnet.overlaps(other.subnet) for other in found)]
    return tuple(dict.fromkeys(found))


def _address(word: str) -> IPv4Address:
    return IPv4Address(struct.pack("=I", int(word, 16)))


# ---------------------------------------------------------------- default routes
def _without_default(found: Sequence[HostNetwork]) -> list[HostNetwork]:
    pieces = {network for interface in _by_interface(found).values() for network in _pieces(interface)}
    return [each for each in found if each not in pieces and each.subnet.prefixlen >= _SHORTEST[each.subnet.version]]


def _by_interface(found: Iterable[HostNetwork]) -> dict[str, list[HostNetwork]]:
    sorted_by: dict[str, list[HostNetwork]] = {}
    for each in found:
        sorted_by.setdefault(each.interface, []).append(each)
    return sorted_by


def _pieces(routes: Sequence[HostNetwork]) -> Iterator[HostNetwork]:
    """Routes of one interface that together are the default route, with holes for what is reached otherwise.

    Then the interface leads to at least half of all addresses, and of every block around a piece. Routes inside a piece
    and single routes still lead to particular networks.
    """
    outermost = _outermost(routes)
    if not outermost:
        return
    space = _SPACE[outermost[0].subnet.version]
    sizes = [each.subnet.num_addresses for each in outermost]
    covered = _Covered([int(each.subnet.network_address) for each in outermost], [0, *accumulate(sizes)])
    if not covered.half_of(space):
        return
    for each in outermost:
        longer = range(each.subnet.prefixlen - _STEP, space.prefixlen, -_STEP)
        if each.subnet.overlaps(space) and all(covered.half_of(each.subnet.supernet(new_prefix=n)) for n in longer):
            yield each


def _outermost(routes: Iterable[HostNetwork]) -> list[HostNetwork]:
    """Routes that lie in no other one, in the order of their addresses."""
    outermost: list[HostNetwork] = []
    for each in sorted(set(routes), key=lambda item: (int(item.subnet.network_address), item.subnet.prefixlen)):
        if not outermost or not is_within(each.subnet, outermost[-1].subnet):
            outermost.append(each)
    return outermost


@dataclass(frozen=True, slots=True)
class _Covered:
    """Where networks begin that do not overlap, in order, and how many addresses the first n of them have."""

    starts: Sequence[int]
    sums: Sequence[int]

    def half_of(self, block: Subnet) -> bool:
        first = int(block.network_address)
        inside = self.sums[bisect_left(self.starts, first + block.num_addresses)]
        return 2 * (inside - self.sums[bisect_left(self.starts, first)]) >= block.num_addresses
