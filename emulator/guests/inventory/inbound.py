"""Traffic that a node's own firewall admits from the other cluster. Pure."""

from __future__ import annotations

from emulator.guests.inventory.model import Vars
from emulator.labfile.model import ClusterSpec, NodeSpec
from emulator.labfile.networks import AllowSpec, NetworkSpec, Protocol


def inbound_from_others(spec: ClusterSpec, node: NodeSpec) -> tuple[Vars, ...]:
    """`global.networks.*.allow` as it concerns this node: `sources` (addresses and networks), `protocol`, `ports`; and
    `sources_v6` where both clusters have IPv6.

    The lab's table on the host decides first; this holds if that table was flushed. Every node answers echo
    requests, so that nothing is said of ICMP.
    """
    return tuple(
        {
            "sources": _sources(spec, network, entry),
            "protocol": entry.protocol.value,
            "ports": entry.ports,
            **_sources_v6(spec, network, entry, node),
        }
        for cluster, network in sorted(spec.networks.items())
        if cluster is not node.role.cluster
        for entry in network.allow
        if entry.protocol is not Protocol.ICMP and (not entry.targets or node.name in entry.targets)
    )


def _sources(spec: ClusterSpec, network: NetworkSpec, entry: AllowSpec) -> tuple[str, ...]:
    if not entry.sources:
        return (str(network.subnet),)
    return tuple(str(node.ip) for node in spec.nodes if node.name in entry.sources)


def _sources_v6(spec: ClusterSpec, network: NetworkSpec, entry: AllowSpec, target: NodeSpec) -> Vars:
    if network.subnet_v6 is None or spec.networks[target.role.cluster].subnet_v6 is None:
        return {}
    if not entry.sources:
        return {"sources_v6": (str(network.subnet_v6),)}
    return {"sources_v6": tuple(str(network.address_v6(node.ip)) for node in spec.nodes if node.name in entry.sources)}
