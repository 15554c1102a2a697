"""A lab's firewall as rules for the kernel. Pure.

All rules concern packets from or to the lab's own bridges; all other packets pass untouched to the tables of others.
The order of the rules is the policy:

- packets between ports of one bridge pass (the kernel shows them to the table if the module br_netfilter is loaded);
- no IPv6 passes from or to a network without IPv6; otherwise both families are treated alike;
- a packet from a guest must have the addresses of a node of that network, else it is spoofed and dropped;
- the host and its guests find each other by ARP, which this table never sees, and by ICMPv6, which it lets pass;
- answers, and ICMP errors about them, pass;
- then allowed traffic passes; everything else is refused with an ICMP error, so that programs fail at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from emulator.core import ids
from emulator.core.address_ranges import NEVER, PRIVATE
from emulator.core.ports import Ownership
from emulator.core.ports.packet_filter import FilterChain, FilterHook, FilterRule, FilterTable
from emulator.plan.resources import Firewall, FirewallRule, FirewallZone

GUEST_TO_HOST = "guest_to_host"
ROUTED = "routed"
SPOOFED = "spoofed"

_REFUSE = FilterRule("counter reject with icmpx admin-prohibited", "refused")
_ANSWERS = FilterRule("ct state established,related accept", "answers")
_IPV6 = "meta nfproto ipv6"
_NEIGHBOURS = FilterRule("icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept", "neighbour discovery")
_CHECK_SOURCE = FilterRule(f"jump {SPOOFED}")
_COMMENT = 100


def filter_table(owner: Ownership, firewall: Firewall) -> FilterTable:
    """The table of a lab, with its ownership mark."""
    bridges = _set(f'"{zone.bridge}"' for zone in firewall.zones)
    return FilterTable(
        name=firewall.table,
        owner=owner,
        chains=(
            FilterChain(SPOOFED, tuple(rule for zone in firewall.zones for rule in _spoofed(zone))),
            FilterChain(GUEST_TO_HOST, _guest_to_host(firewall.zones)),
            FilterChain(ROUTED, _routed(firewall, bridges)),
            FilterChain("input", (FilterRule(f"iifname {bridges} goto {GUEST_TO_HOST}"),), FilterHook.INPUT),
            FilterChain(
                "forward",
                tuple(FilterRule(f"{side} {bridges} goto {ROUTED}") for side in ("iifname", "oifname")),
                FilterHook.FORWARD,
            ),
            FilterChain("postrouting", tuple(_masqueraded(firewall.zones, bridges)), FilterHook.POSTROUTING),
        ),
    )


def _spoofed(zone: FirewallZone) -> Iterable[FilterRule]:
    """Drop spoofed packets. A node may use its own IPv6 address and the link-local one for neighbour discovery."""
    comment = f"spoofed in {zone.name}"
    if not zone.nodes:
        yield FilterRule(f'iifname "{zone.bridge}" counter drop', comment)
        return
    known = _set(f"{node.mac} . {node.ip}" for node in zone.nodes)
    yield FilterRule(f'iifname "{zone.bridge}" ether saddr . ip saddr != {known} counter drop', comment)
    if zone.subnet_v6:
        known = _set(
            f"{node.mac} . {address}"
            for node in zone.nodes
            for address in (node.ip_v6, ids.link_local_address(node.mac))
        )
        match = f'iifname "{zone.bridge}" ether saddr . ip6 saddr != {known}'
        yield FilterRule(f"{match} counter drop", f"{comment}, IPv6")


def _without_ipv6(zones: Sequence[FirewallZone], *sides: str) -> Iterable[FilterRule]:
    """Drop IPv6 packets from (`iifname`) or to (`oifname`) networks without IPv6."""
    without = [zone for zone in zones if not zone.subnet_v6]
    if len(without) == len(zones):
        yield FilterRule(f"{_IPV6} counter drop", "no IPv6")
        return
    for zone in without:
        for side in sides:
            yield FilterRule(f'{side} "{zone.bridge}" {_IPV6} counter drop', f"no IPv6 in {zone.name}")


def _guest_to_host(zones: Sequence[FirewallZone]) -> tuple[FilterRule, ...]:
    """Traffic from guests to the host: DHCP first, because its sender has no address yet; DNS only at its own gateway.

    The host accepts only neighbour discovery of ICMPv6: no guest is a router to it (advertisements, redirects).
    """
    services = [
        FilterRule(f'iifname "{zone.bridge}" {gateway} {protocol} dport 53 accept', f"DNS of {zone.name}")
        for zone in zones
        for gateway in (f"ip daddr {zone.gateway}", *([f"ip6 daddr {zone.gateway_v6}"] if zone.subnet_v6 else []))
        for protocol in ("udp", "tcp")
    ]
    dhcp = FilterRule("meta nfproto ipv4 udp sport 68 udp dport 67 accept", "DHCP")
    neighbours = [_NEIGHBOURS] if any(zone.subnet_v6 for zone in zones) else []
    return (*_without_ipv6(zones, "iifname"), dhcp, _CHECK_SOURCE, *neighbours, _ANSWERS, *services, _REFUSE)


def _routed(firewall: Firewall, bridges: str) -> tuple[FilterRule, ...]:
    zones = {zone.name: zone for zone in firewall.zones}
    same = [rule for zone in firewall.zones for rule in _within(zone)]
    out = [rule for zone in firewall.zones if zone.nat for rule in _going_out(zone, bridges)]
    allowed = [each for rule in firewall.rules for each in _allowed(rule, zones)]
    no_ipv6 = _without_ipv6(firewall.zones, "iifname", "oifname")
    return (*same, *no_ipv6, _CHECK_SOURCE, _ANSWERS, *allowed, *out, _REFUSE)


def _going_out(zone: FirewallZone, bridges: str) -> Iterable[FilterRule]:
    """Public addresses, and the private ranges that are listed; never link-local ones."""
    way = f'iifname "{zone.bridge}" oifname != {bridges}'
    families = ("ip", "ip6") if zone.subnet_v6 else ("ip",)
    reject = "counter reject with icmpx admin-prohibited"
    for family in families:
        yield FilterRule(f"{way} {family} daddr {_set(NEVER[family])} {reject}", f"{zone.name}: never reached")
    for family in families:
        listed = [each for each in zone.nat_private if (":" in each) is (family == "ip6")]
        if listed:
            yield FilterRule(f"{way} {family} daddr {_set(listed)} accept", f"{zone.name}: private, listed")
    for family in families:
        yield FilterRule(f"{way} {family} daddr {_set(PRIVATE[family])} {reject}", f"{zone.name}: private, not listed")
    yield FilterRule(f"{way} accept", f"{zone.name} may go out")


def _within(zone: FirewallZone) -> Iterable[FilterRule]:
    if zone.subnet_v6:
        routers = f'iifname "{zone.bridge}" oifname "{zone.bridge}" icmpv6 type {{ nd-router-advert, nd-redirect }}'
        yield FilterRule(f"{routers} counter drop", f"a guest as router in {zone.name}")
    yield FilterRule(f'iifname "{zone.bridge}" oifname "{zone.bridge}" accept')


def _allowed(rule: FirewallRule, zones: dict[str, FirewallZone]) -> Iterable[FilterRule]:
    source, target = zones[rule.source_zone], zones[rule.target_zone]
    yield _allowed_in("ip", "icmp", rule, source, target, target.subnet)
    if source.subnet_v6 and target.subnet_v6:
        yield _allowed_in("ip6", "icmpv6", rule, source, target, target.subnet_v6)


def _allowed_in(
    family: str, icmp: str, rule: FirewallRule, source: FirewallZone, target: FirewallZone, subnet: str
) -> FilterRule:
    sources, targets = (
        [address for address in addresses if (":" in address) is (family == "ip6")]
        for addresses in (rule.sources, rule.targets)
    )
    words = [f'iifname "{source.bridge}" oifname "{target.bridge}"']
    if rule.sources:
        words.append(f"{family} saddr {_set(sources)}")
    # Limited to the subnet, because routes of the host could lead further behind that bridge.
    words.append(f"{family} daddr {_set(targets) if rule.targets else subnet}")
    if rule.protocol == "icmp":
        words.append(f"{icmp} type echo-request")
    else:
        words.append(f"{rule.protocol} dport {_set(rule.ports)}")
    return FilterRule(f"{' '.join(words)} accept", rule.name[:_COMMENT])


def _masqueraded(zones: Sequence[FirewallZone], bridges: str) -> Iterable[FilterRule]:
    for zone in zones:
        families = [("ip", zone.subnet, zone.gateway), ("ip6", zone.subnet_v6, zone.gateway_v6)]
        for family, subnet, gateway in families if zone.nat else ():
            if subnet:
                match = f"{family} saddr {subnet} {family} saddr != {gateway} oifname != {bridges}"
                yield FilterRule(f"{match} masquerade", f"{zone.name} goes out")


def _set(items: Iterable[str]) -> str:
    return f"{{ {', '.join(dict.fromkeys(items))} }}"
