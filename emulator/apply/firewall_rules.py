"""A lab's firewall as the rules that the kernel is given. Pure.

All rules concern packets that come from or go to the lab's own bridges; everything else passes untouched, to the
tables of others. The order of the rules is the policy:

- what a bridge sends back to its own ports is the guests' own affair (the kernel shows such packets to the table where
  the module br_netfilter is loaded);
- nothing passes in IPv6 from or to a network that has none; where there is one, the same holds in both families;
- a packet from a guest must bear the addresses of a node of that network, else it is spoofed and dropped;
- the host and its guests find each other by ARP, which this table never sees, and by ICMPv6, which it lets pass;
- answers, and ICMP errors about them, pass;
- then what is allowed; everything else is refused with an ICMP error, so that programs fail at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from emulator.core import ids
from emulator.core.filter_ports import FilterChain, FilterHook, FilterRule, FilterTable
from emulator.core.ports import Ownership
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

# Never reached through the host, whatever the lab file lists: cloud metadata services (169.254.169.254) and whatever
# else answers on a link of the host, its loopback, multicast and broadcast (RFC 6890, RFC 4291). 6to4 and the NAT64
# prefix would reach private IPv4 addresses in another guise (RFC 3056, RFC 6052).
_NEVER = {
    "ip": ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"),
    "ip6": ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "fe80::/10", "ff00::/8"),
}
# Networks of the host's owner: reached only where the lab file lists them (RFC 1918, 6598, 2544, 4193).
_PRIVATE = {
    "ip": ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15"),
    "ip6": ("fc00::/7", "fec0::/10"),
}


def filter_table(owner: Ownership, firewall: Firewall) -> FilterTable:
    """The table of a lab, with its mark."""
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
    """A node's IPv6 addresses are its own and the link-local one, from which it looks for its neighbours."""
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
    """Drop what is IPv6 and comes from (`iifname`) or goes to (`oifname`) a network that has none."""
    without = [zone for zone in zones if not zone.subnet_v6]
    if len(without) == len(zones):
        yield FilterRule(f"{_IPV6} counter drop", "no IPv6")
        return
    for zone in without:
        for side in sides:
            yield FilterRule(f'{side} "{zone.bridge}" {_IPV6} counter drop', f"no IPv6 in {zone.name}")


def _guest_to_host(zones: Sequence[FirewallZone]) -> tuple[FilterRule, ...]:
    """DHCP comes first: who asks for an address has none. DNS only at the gateway of one's own network.

    Of ICMPv6 the host listens to neighbour discovery alone: no guest is a router to it (advertisements, redirects).
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
        yield FilterRule(f"{way} {family} daddr {_set(_NEVER[family])} {reject}", f"{zone.name}: never reached")
    for family in families:
        listed = [each for each in zone.nat_private if (":" in each) is (family == "ip6")]
        if listed:
            yield FilterRule(f"{way} {family} daddr {_set(listed)} accept", f"{zone.name}: private, listed")
    for family in families:
        yield FilterRule(f"{way} {family} daddr {_set(_PRIVATE[family])} {reject}", f"{zone.name}: private, not listed")
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
    # The subnet, too: routes of the host could lead to more behind that bridge.
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
