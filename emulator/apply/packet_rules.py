"""A lab's firewall as the rules that the kernel is given. Pure.

All rules concern packets that come from or go to the lab's own bridges; everything else passes untouched, to the
tables of others. The order of the rules is the policy:

- what a bridge sends back to its own ports is the guests' own affair (the kernel shows such packets to the table where
  the module br_netfilter is loaded);
- nothing passes in IPv6, which the lab's networks do not have;
- a packet from a guest must bear the addresses of a node of that network, else it is spoofed and dropped;
- answers, and ICMP errors about them, pass;
- then what is allowed; everything else is refused with an ICMP error, so that programs fail at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from emulator.filter_ports import FilterChain, FilterHook, FilterRule, FilterTable
from emulator.plan.resources import Firewall, FirewallRule, FirewallZone
from emulator.ports import Ownership

GUEST_TO_HOST = "guest_to_host"
ROUTED = "routed"
SPOOFED = "spoofed"

_REFUSE = FilterRule("counter reject with icmpx admin-prohibited", "refused")
_ANSWERS = FilterRule("ct state established,related accept", "answers")
_NO_IPV6 = FilterRule("meta nfproto ipv6 counter drop", "no IPv6")
_CHECK_SOURCE = FilterRule(f"jump {SPOOFED}")
_COMMENT = 100


def filter_table(owner: Ownership, firewall: Firewall) -> FilterTable:
    """The table of a lab, with its mark."""
    bridges = _set(f'"{zone.bridge}"' for zone in firewall.zones)
    return FilterTable(
        name=firewall.table,
        owner=owner,
        chains=(
            FilterChain(SPOOFED, tuple(_spoofed(zone) for zone in firewall.zones)),
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


def _spoofed(zone: FirewallZone) -> FilterRule:
    known = [f"{node.mac} . {node.ip}" for node in zone.nodes]
    match = f" ether saddr . ip saddr != {_set(known)}" if known else ""
    return FilterRule(f'iifname "{zone.bridge}"{match} counter drop', f"spoofed in {zone.name}")


def _guest_to_host(zones: Iterable[FirewallZone]) -> tuple[FilterRule, ...]:
    """DHCP comes first: who asks for an address has none. DNS only at the gateway of one's own network."""
    services = [
        FilterRule(f'iifname "{zone.bridge}" ip daddr {zone.gateway} {protocol} dport 53 accept', f"DNS of {zone.name}")
        for zone in zones
        for protocol in ("udp", "tcp")
    ]
    dhcp = FilterRule("meta nfproto ipv4 udp sport 68 udp dport 67 accept", "DHCP")
    return (_NO_IPV6, dhcp, _CHECK_SOURCE, _ANSWERS, *services, _REFUSE)


def _routed(firewall: Firewall, bridges: str) -> tuple[FilterRule, ...]:
    zones = {zone.name: zone for zone in firewall.zones}
    same = [FilterRule(f'iifname "{zone.bridge}" oifname "{zone.bridge}" accept') for zone in firewall.zones]
    out = [
        FilterRule(f'iifname "{zone.bridge}" oifname != {bridges} accept', f"{zone.name} may go out")
        for zone in firewall.zones
        if zone.nat
    ]
    allowed = [_allowed(rule, zones) for rule in firewall.rules]
    return (*same, _NO_IPV6, _CHECK_SOURCE, _ANSWERS, *allowed, *out, _REFUSE)


def _allowed(rule: FirewallRule, zones: dict[str, FirewallZone]) -> FilterRule:
    source, target = zones[rule.source_zone], zones[rule.target_zone]
    words = [f'iifname "{source.bridge}" oifname "{target.bridge}"']
    if rule.sources:
        words.append(f"ip saddr {_set(rule.sources)}")
    # The subnet, too: routes of the host could lead to more behind that bridge.
    words.append(f"ip daddr {_set(rule.targets) if rule.targets else target.subnet}")
    if rule.protocol == "icmp":
        words.append("icmp type echo-request")
    else:
        words.append(f"{rule.protocol} dport {_set(rule.ports)}")
    return FilterRule(f"{' '.join(words)} accept", rule.name[:_COMMENT])


def _masqueraded(zones: Sequence[FirewallZone], bridges: str) -> Iterable[FilterRule]:
    for zone in zones:
        if zone.nat:
            match = f"ip saddr {zone.subnet} ip saddr != {zone.gateway} oifname != {bridges}"
            yield FilterRule(f"{match} masquerade", f"{zone.name} goes out")


def _set(items: Iterable[str]) -> str:
    return f"{{ {', '.join(dict.fromkeys(items))} }}"
