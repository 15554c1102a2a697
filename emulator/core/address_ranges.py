"""Ranges of addresses that are not public, by family, as the firewall and the lab file's checks need them."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network

# Never reached through the host, whatever the lab file lists: cloud metadata services (169.254.169.254) and whatever
# else answers on a link of the host, its loopback, multicast and broadcast (RFC 6890, RFC 4291). 6to4 and the NAT64
# prefixes would reach private IPv4 addresses in another guise (RFC 3056, RFC 6052).
NEVER: Mapping[str, tuple[str, ...]] = {
    "ip": ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"),
    "ip6": ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "fe80::/10", "ff00::/8"),
}
# Networks of the host's owner: reached only where the lab file lists them (RFC 1918, 6598, 2544, 4193).
PRIVATE: Mapping[str, tuple[str, ...]] = {
    "ip": ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15"),
    "ip6": ("fc00::/7", "fec0::/10"),
}


def is_within(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    """Whether one network lies in another of the same family."""
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)
