"""Checks of networks and addresses that take more than one field to judge."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import combinations

from emulator.labfile.addresses import AddressRange, free_addresses, usable
from emulator.labfile.checks.examples import (
    example_bridge,
    example_subnet,
    example_subnet_v6,
    free_network,
    has_host_bits,
    reserved,
)
from emulator.labfile.draft import Draft, GroupDraft, NetworkDraft
from emulator.labfile.findings import quoted
from emulator.labfile.model import Role
from emulator.labfile.read.view import View

LARGEST_PREFIX, SMALLEST_PREFIX = 16, 29
# Subnets below this size are too small for the round numbers .10 and .11.
_ROOMY = 32
# With the built-in network of the pods and its default size, nodes have numbers below this.
_NUMBERED = 256
# Interface identifiers of IPv6 have 64 bits (RFC 4291, 2.5.1).
PREFIX_V6 = 64
_UNIQUE_LOCAL = IPv6Network("fc00::/7")

NAT_EMBEDDED = "nat has no effect: the network namespace of an embedded hypervisor has no connection to the outside"
UPGRADES_EMBEDDED = (
    "nodes reach no package source: the network namespace of an embedded hypervisor has no connection to the outside"
)

# Names that the schema allows, and under which the kernel has no bridge.
RESERVED_INTERFACES: Mapping[str, str] = {
    "lo": "it is the loopback interface of every network namespace",
    "all": "the kernel has its settings for all interfaces under that name (net.ipv4.conf.all)",
    "default": "the kernel has its settings for new interfaces under that name (net.ipv4.conf.default)",
    "bonding_masters": "the kernel has a file of that name among its interfaces (/sys/class/net)",
}


def check_networks(draft: Draft) -> None:
    """Each network by itself, and the two against each other."""
    for network in draft.networks.values():
        _check_subnet(draft, network)
        _check_subnet_v6(draft, network)
        _check_bridge(draft, network)
    for one, other in combinations(draft.networks.values(), 2):
        # The default of an absent key is never the one to blame.
        blamed, kept = (other, one) if other.view.child("subnet").present else (one, other)
        if one.subnet and other.subnet and one.subnet.overlaps(other.subnet):
            blamed.view.child("subnet").error(
                "network.overlap",
                f"{blamed.subnet} overlaps {kept.subnet} of {kept.key}",
                f"choose another network, {example_subnet(draft, blamed)}",
            )
        if one.subnet_v6 and other.subnet_v6 and one.subnet_v6.overlaps(other.subnet_v6):
            example = example_subnet_v6(draft, other)
            other.view.child("subnet_v6").error(
                "network.overlap",
                f"{other.subnet_v6} overlaps {one.subnet_v6} of {one.key}",
                "choose another network" + (f", {example}" if example else ""),
            )
        blamed, kept = (other, one) if other.view.child("bridge").present else (one, other)
        if one.bridge and one.bridge == other.bridge:
            blamed.view.child("bridge").error(
                "network.bridge", f"{blamed.bridge} is the bridge of {kept.key} too", "give each network its own bridge"
            )


def _check_bridge(draft: Draft, network: NetworkDraft) -> None:
    why = RESERVED_INTERFACES.get(network.bridge or "")
    if why:
        network.view.child("bridge").error(
            "network.bridge",
            f"{quoted(network.bridge or '')} cannot be a bridge: {why}",
            f"choose another name, {example_bridge(draft, network)}",
        )


def _check_subnet(draft: Draft, network: NetworkDraft) -> None:
    subnet, view = network.subnet, network.view.child("subnet")
    if subnet is None:
        return
    if why := reserved(subnet):
        view.error("network.reserved", f"{subnet} cannot be used: {why}", example_subnet(draft, network))
    elif not LARGEST_PREFIX <= subnet.prefixlen <= SMALLEST_PREFIX:
        view.error(
            "network.size",
            f"a network of the lab is between /{LARGEST_PREFIX} and /{SMALLEST_PREFIX}, not /{subnet.prefixlen}",
            example_subnet(draft, network, IPv4Network((subnet.network_address, 24), strict=False)),
        )
    elif has_host_bits(view, subnet):
        report_host_bits(view, free_network(draft, view, preferred=(subnet,)))
    elif not subnet.is_private:
        view.warning(
            "network.public",
            f"{subnet} is not a private network; the real hosts of that network cannot be reached from the lab",
            "take one inside 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
        )


def report_host_bits(view: View, free: IPv4Network | IPv6Network | None) -> None:
    """Report an address where a network is meant; `free` is the network if it can be had, else another one."""
    what = f"{view.plain()} is an address in a network, not a network"
    view.error("network.host-bits", what, f"write {free}" if free else "choose another network")


def _check_subnet_v6(draft: Draft, network: NetworkDraft) -> None:
    subnet, view = network.subnet_v6, network.view.child("subnet_v6")
    if subnet is None:
        return
    if why := reserved(subnet):
        view.error("network.reserved", f"{subnet} cannot be used: {why}", example_subnet_v6(draft, network))
    elif subnet.prefixlen != PREFIX_V6:
        own = IPv6Network((subnet.network_address, PREFIX_V6), strict=False)
        view.error(
            "network.size",
            f"an IPv6 network of the lab is a /{PREFIX_V6}, not a /{subnet.prefixlen}",
            example_subnet_v6(draft, network, own),
        )
    elif has_host_bits(view, subnet):
        report_host_bits(view, subnet)
    elif not subnet.subnet_of(_UNIQUE_LOCAL):
        view.warning(
            "network.public",
            f"{subnet} is not a unique local network; the real hosts of that network cannot be reached from the lab",
            "take one inside fd00::/8, with 40 random bits of your own behind fd",
        )


def check_way_out(draft: Draft) -> None:
    """Warn of settings that have no effect with the embedded hypervisor."""
    if draft.file.hypervisor.uri != "embedded":
        return
    fix = "hypervisor.uri qemu:///system, or join the lab's namespace to a network of yours"
    for network in draft.networks.values():
        if network.spec.nat:
            network.view.child("nat").warning("network.no-way-out", NAT_EMBEDDED, fix)
    if draft.file.security.unattended_upgrades:
        draft.root.child("security").child("unattended_upgrades").warning("security.no-way-out", UPGRADES_EMBEDDED, fix)


def assign_addresses(draft: Draft) -> Mapping[Role, tuple[IPv4Address, ...]]:
    """Addresses of every node, given or by default; their faults are reported.

    A role whose addresses cannot be known is left out.
    """
    found: dict[Role, tuple[IPv4Address, ...]] = {}
    for network in draft.networks.values():
        if network.subnet is None or not LARGEST_PREFIX <= network.subnet.prefixlen <= SMALLEST_PREFIX:
            continue
        groups = draft.groups_of(network.kind)
        _check_given(network.subnet, network.key, groups)
        found.update(_assign(network.subnet, network, groups))
    return found


def _default_start(subnet: IPv4Network, role: Role) -> IPv4Address:
    """Where the addresses of a role begin when the file names none.

    The control node has .10, workers follow from .11. GPU workers and login nodes begin in the upper half of the first
    256 addresses: one more worker of the other kind does not move them to other addresses, and a pod network of default
    size has room for their numbers (`emulator.labfile.checks.kubernetes`).
    """
    roomy = subnet.num_addresses >= _ROOMY
    if role.is_head:
        return subnet.network_address + (10 if roomy else 2)
    if role in (Role.CLOUD_GPU_WORKER, Role.HPC_LOGIN):
        return subnet.network_address + min(subnet.num_addresses, _NUMBERED) // 2 + 1
    return subnet.network_address + (11 if roomy else 3)


def _assign(
    subnet: IPv4Network, network: NetworkDraft, groups: tuple[GroupDraft, ...]
) -> dict[Role, tuple[IPv4Address, ...]]:
    found: dict[Role, tuple[IPv4Address, ...]] = {}
    taken = [_used(group) for group in groups if group.addresses and group.count]
    for group in groups:
        if group.count is None or group.address_view.refused:
            continue
        if group.addresses:
            found[group.role] = group.addresses.addresses(group.count)
            continue
        if group.address_view.present:
            continue
        start = _default_start(subnet, group.role)
        chosen = free_addresses(subnet, start=start, count=group.count, taken=taken)
        if len(chosen) < group.count:
            group.view.error(
                "network.full",
                f"{subnet} of {network.key} has room for {len(chosen)} of the {group.count} nodes",
                "choose a larger subnet (a smaller number after the slash), or fewer nodes",
            )
            continue
        found[group.role] = chosen
        taken.extend(AddressRange(address, address) for address in chosen)
    return found


def _used(group: GroupDraft) -> AddressRange:
    assert group.addresses is not None  # noqa: S101 - callers ask only for groups that have them
    return group.addresses.head(group.count if group.count is not None else len(group.addresses))


def _check_given(subnet: IPv4Network, key: str, groups: tuple[GroupDraft, ...]) -> None:
    given = [group for group in groups if group.addresses and group.count != 0]
    for group in given:
        _check_inside(subnet, key, group)
        _check_length(subnet, group, [_used(each) for each in given if each is not group])
    for one, other in combinations(given, 2):
        first, second = _used(one), _used(other)
        if first.overlaps(second):
            shared = max(first.first, second.first)
            other.address_view.error(
                "address.duplicate",
                f"{shared} is also given by {one.address_view.name}",
                f"begin after {first.last}",
            )


def _check_inside(subnet: IPv4Network, key: str, group: GroupDraft) -> None:
    span = group.addresses
    assert span is not None  # noqa: S101
    room = usable(subnet)
    view = group.address_view
    fix = f"use addresses from {room.first} to {room.last}"
    outside = next((each for each in (span.first, span.last) if each not in subnet), None)
    if outside is not None:
        view.error("address.outside", f"{outside} is outside the subnet {subnet} of {key}", fix)
        return
    special = {
        subnet.network_address: "the network's own address",
        subnet.network_address + 1: "the gateway's address (the host's bridge)",
        subnet.broadcast_address: "the broadcast address",
    }
    for address, why in special.items():
        if span.first <= address <= span.last:
            view.error("address.special", f"{address} is {why} in {subnet}", fix)


def _longer(subnet: IPv4Network, span: AddressRange, count: int, rest: list[AddressRange]) -> str:
    """The remedy for a range that is too short, as far as the addresses after it are free."""
    room = usable(subnet)
    if int(span.first) + count - 1 <= int(room.last):
        longer = AddressRange(span.first, span.first + (count - 1))
        if room.first <= longer.first and not any(longer.overlaps(each) for each in rest):
            return f"write {longer}"
    return "use other addresses"


def _check_length(subnet: IPv4Network, group: GroupDraft, rest: list[AddressRange]) -> None:
    span, count = group.addresses, group.count
    if span is None or count is None or len(span) >= count:
        return
    longer = _longer(subnet, span, count, rest)
    plural = "es" if len(span) > 1 else ""
    group.address_view.error(
        "address.too-few",
        f"{span} is {len(span)} address{plural}, but count is {count}",
        f"{longer}, or lower count to {len(span)}",
    )
