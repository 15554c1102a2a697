"""Firewalls of the host that keep guests from DHCP, from DNS and from the networks behind the host.

A packet has to pass every table of every firewall. The remedies open a lab's bridges only; there the lab's own table
still filters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from emulator.host.checks.networks import OWN_NETWORKS, uses_host_networks
from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.readings import ForwardChain, HostReadings

DEFAULT_BRIDGES = ("virbr100", "virbr200")
"""The schema's defaults, for a lab whose file names no bridges."""
_EMBEDDED = "or hypervisor.uri: embedded"
# Chains of Docker and ufw, and the table of firewalld: each has a check of its own.
_IPTABLES = ("ip", "filter", "FORWARD")
_FIREWALLD = "firewalld"


def check_firewalls(host: HostReadings, wanted: Wanted) -> Iterator[HostCheckResult]:
    """Docker's FORWARD policy, policies of other tables, firewalld and ufw."""
    yield _docker(host, wanted)
    yield _forward(host, wanted)
    yield _firewalld(host, wanted)
    yield _ufw(host, wanted)


def _bridges(wanted: Wanted) -> tuple[str, ...]:
    return wanted.bridges or DEFAULT_BRIDGES


def _iptables(chain: str, wanted: Wanted) -> str:
    rules = (f"iptables -I {chain} {side} {name} -j ACCEPT" for name in _bridges(wanted) for side in ("-i", "-o"))
    return "; ".join(rules)


def _docker(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "network.docker", "Docker's firewall"
    why = "Docker sets iptables' FORWARD policy to DROP, which cuts off guests on the host's own bridges"
    if not host.docker:
        return ok(id_, title, "no Docker", why)
    if not uses_host_networks(host, wanted):
        return ok(id_, title, f"Docker runs; {OWN_NETWORKS}", why)
    if host.forward_policy is None:
        found = "Docker runs; the FORWARD policy is hidden from this user"
        return HostCheckResult(id_, title, Level.WARN, found, why, "sudo iptables -S FORWARD", unseen=True)
    if host.forward_policy != "DROP":
        return ok(id_, title, f"Docker runs; FORWARD is {host.forward_policy}", why)
    bridged = ", and bridged packets pass it, too (br_netfilter)" if host.bridge_filter else ""
    fix = f"{_iptables('DOCKER-USER', wanted)}; {_EMBEDDED}"
    return HostCheckResult(id_, title, Level.WARN, f"FORWARD is DROP{bridged}", why, fix)


def _forward(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "network.forward", "forwarded packets"
    why = "a forward chain whose policy is to drop cuts off guests on bridges that it does not name"
    if not uses_host_networks(host, wanted):
        return ok(id_, title, OWN_NETWORKS, why)
    hidden = "iptable_filter" in host.kernel.loaded and host.forward_policy is None
    if host.forward_drops is None or hidden:
        ask, root = "iptables -S FORWARD" if hidden else "nft list chains", host.user.is_root
        found = "the packet filter does not answer" if root else "the packet filter is hidden from this user"
        return HostCheckResult(id_, title, Level.WARN, found, why, f"sudo {ask}", unseen=not root)
    reported_elsewhere = host.docker or host.ufw
    drops = [
        chain
        for chain in host.forward_drops
        if chain.table != _FIREWALLD
        and not (reported_elsewhere and (chain.family, chain.table, chain.name) == _IPTABLES)
    ]
    if host.forward_policy == "DROP" and not reported_elsewhere:
        legacy = ForwardChain(*_IPTABLES)
        drops += [legacy] if legacy not in drops else []
    if not drops:
        return ok(id_, title, "no chain drops them by its policy", why)
    named = ", ".join(f"{chain.family} {chain.table} {chain.name}" for chain in drops)
    fix = f"{'; '.join(_accept(chain, wanted) for chain in drops)}; {_EMBEDDED}"
    return HostCheckResult(id_, title, Level.WARN, f"dropped by the policy of: {named}", why, fix)


def _accept(chain: ForwardChain, wanted: Wanted) -> str:
    if (chain.family, chain.table, chain.name) == _IPTABLES:
        return _iptables("FORWARD", wanted)
    place = f"{chain.family} {chain.table} {chain.name}"
    sides = ("iifname", "oifname")
    return "; ".join(f"nft insert rule {place} {side} {name} accept" for name in _bridges(wanted) for side in sides)


def _firewalld(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "network.firewalld", "firewalld"
    why = "it lets guests reach DHCP and DNS of the host only through bridges in its zone libvirt"
    if "firewalld" not in host.processes and host.processes_hidden and uses_host_networks(host, wanted):
        found = "others' processes are hidden from this user (hidepid)"
        return HostCheckResult(id_, title, Level.WARN, found, why, "sudo firewall-cmd --state", unseen=True)
    if "firewalld" not in host.processes:
        return ok(id_, title, "does not run", why)
    if not uses_host_networks(host, wanted):
        return ok(id_, title, f"runs; {OWN_NETWORKS}", why)
    # libvirt sets the zone only for networks that it filters itself; it does not filter labs' networks.
    add = " ".join(f"--add-interface={name}" for name in _bridges(wanted))
    fix = f"firewall-cmd --permanent --zone=libvirt {add}; firewall-cmd --reload; {_EMBEDDED}"
    return HostCheckResult(id_, title, Level.WARN, "runs", why, fix)


def _ufw(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "network.ufw", "ufw"
    why = "by default guests reach neither DHCP and DNS of the host nor the networks behind it"
    if not host.ufw:
        return ok(id_, title, "not enabled", why)
    if not uses_host_networks(host, wanted):
        return ok(id_, title, f"enabled; {OWN_NETWORKS}", why)
    fix = f"{'; '.join(_ufw_rules(_bridges(wanted)))}; {_EMBEDDED}"
    return HostCheckResult(id_, title, Level.WARN, "enabled", why, fix)


def _ufw_rules(bridges: Iterable[str]) -> Iterator[str]:
    for name in bridges:
        yield f"ufw allow in on {name} to any port 67 proto udp"
        yield f"ufw allow in on {name} to any port 53"
        yield f"ufw route allow in on {name}"
        yield f"ufw route allow out on {name}"
