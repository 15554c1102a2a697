"""Checks of networks and addresses that take more than one field to judge."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from itertools import combinations

from emulator.labfile.addresses import AddressRange, free_addresses, usable
from emulator.labfile.draft import Draft, GroupDraft, NetworkDraft
from emulator.labfile.model import Role

LARGEST_PREFIX, SMALLEST_PREFIX = 16, 29
# Subnets below this size are too small for the round numbers .10 and .11.
_ROOMY = 32
# Interface identifiers of IPv6 have 64 bits (RFC 4291, 2.5.1).
PREFIX_V6 = 64
_UNIQUE_LOCAL = IPv6Network("fc00::/7")
_EXAMPLES_V6 = (IPv6Network("fd12:3456:789a:100::/64"), IPv6Network("fd12:3456:789a:200::/64"))

NAT_EMBEDDED = "nat has no effect: the network namespace of an embedded hypervisor has no connection to the outside"
UPGRADES_EMBEDDED = (
    "nodes reach no package source: the network namespace of an embedded hypervisor has no connection to the outside"
)

# Networks that a lab must not take even when nothing else in the file has them.
_RESERVED = (
    (IPv4Network("0.0.0.0/8"), "means 'this network'"),
    (IPv4Network("127.0.0.0/8"), "is the loopback network of every machine"),
    (IPv4Network("169.254.0.0/16"), "is for link-local addresses"),
    (IPv4Network("224.0.0.0/3"), "is for multicast and reserved addresses"),
    (IPv6Network("::/8"), "holds the loopback address, and IPv4 addresses in other forms"),
    (IPv6Network("fe80::/10"), "is for link-local addresses"),
    (IPv6Network("fec0::/10"), "was for site-local addresses, which are no longer routed"),
    (IPv6Network("ff00::/8"), "is for multicast"),
)


def check_networks(draft: Draft) -> None:
    """Each subnet by itself, and the two networks against each other."""
    for network in draft.networks.values():
        _check_subnet(network)
        _check_subnet_v6(network)
    for one, other in combinations(draft.networks.values(), 2):
        # The default of an absent key is never the one to blame.
        blamed, kept = (other, one) if other.view.child("subnet").present else (one, other)
        if one.subnet and other.subnet and one.subnet.overlaps(other.subnet):
            free = _elsewhere(one.subnet if blamed is other else other.subnet)
            blamed.view.child("subnet").error(
                "network.overlap",
                f"{blamed.subnet} overlaps {kept.subnet} of {kept.key}",
                f"choose another network, for example {free}",
            )
        if one.subnet_v6 and other.subnet_v6 and one.subnet_v6.overlaps(other.subnet_v6):
            free_v6 = [each for each in _EXAMPLES_V6 if not each.overlaps(one.subnet_v6)]
            other.view.child("subnet_v6").error(
                "network.overlap",
                f"{other.subnet_v6} overlaps {one.subnet_v6} of {one.key}",
                "choose another network" + (f", for example {free_v6[0]}" if free_v6 else ""),
            )
        blamed, kept = (other, one) if other.view.child("bridge").present else (one, other)
        if one.bridge and one.bridge == other.bridge:
            blamed.view.child("bridge").error(
                "network.bridge", f"{blamed.bridge} is the bridge of {kept.key} too", "give each network its own bridge"
            )


def _check_subnet(network: NetworkDraft) -> None:
    subnet, view = network.subnet, network.view.child("subnet")
    if subnet is None:
        return
    if why := reserved(subnet):
        view.error("network.reserved", f"{subnet} cannot be used: {why}", "for example 192.168.100.0/24")
        return
    if not LARGEST_PREFIX <= subnet.prefixlen <= SMALLEST_PREFIX:
        view.error(
            "network.size",
            f"a network of the lab is between /{LARGEST_PREFIX} and /{SMALLEST_PREFIX}, not /{subnet.prefixlen}",
            f"for example {subnet.network_address}/24",
        )
    elif not subnet.is_private:
        view.warning(
            "network.public",
            f"{subnet} is not a private network; the real hosts of that network cannot be reached from the lab",
            "take one inside 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16",
        )


def _check_subnet_v6(network: NetworkDraft) -> None:
    subnet, view = network.subnet_v6, network.view.child("subnet_v6")
    if subnet is None:
        return
    if why := reserved(subnet):
        view.error("network.reserved", f"{subnet} cannot be used: {why}", f"for example {_EXAMPLES_V6[0]}")
    elif subnet.prefixlen != PREFIX_V6:
        view.error(
            "network.size",
            f"an IPv6 network of the lab is a /{PREFIX_V6}, not a /{subnet.prefixlen}",
            f"for example {IPv6Network((subnet.network_address, PREFIX_V6), strict=False)}",
        )
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


def _elsewhere(taken: IPv4Network) -> IPv4Network:
    """A /24 that does not overlap `taken`, for the remedy's example."""
    candidates = (IPv4Network("192.168.200.0/24"), IPv4Network("192.168.100.0/24"), IPv4Network("172.20.0.0/24"))
    return next((network for network in candidates if not network.overlaps(taken)), candidates[0])


def reserved(subnet: IPv4Network | IPv6Network) -> str:
    """Why no network of a lab can be there; empty when one can."""
    return next((f"{network} {why}" for network, why in _RESERVED if subnet.overlaps(network)), "")


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

    Heads have .10, workers follow from .11. GPU workers begin in the upper half, so that one more CPU worker
    does not move them to other addresses.
    """
    roomy = subnet.num_addresses >= _ROOMY
    if role.is_head:
        return subnet.network_address + (10 if roomy else 2)
    if role is Role.CLOUD_GPU_WORKER:
        return subnet.network_address + subnet.num_addresses // 2 + 1
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
        _check_length(group)
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


def _check_length(group: GroupDraft) -> None:
    span, count = group.addresses, group.count
    if span is None or count is None or len(span) >= count:
        return
    try:
        longer = f"write {AddressRange(span.first, span.first + (count - 1))}"
    except ValueError:  # past 255.255.255.255
        longer = "use other addresses"
    plural = "es" if len(span) > 1 else ""
    group.address_view.error(
        "address.too-few",
        f"{span} is {len(span)} address{plural}, but count is {count}",
        f"{longer}, or lower count to {len(span)}",
    )
