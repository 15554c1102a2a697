"""The firewall of a lab: its networks as zones, and what the file allows between them. Pure."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

from emulator.core import ids
from emulator.labfile.model import ClusterKind, ClusterSpec
from emulator.labfile.networks import AllowSpec
from emulator.plan.resources import DnsAlias, FilteredNode, Firewall, FirewallRule, FirewallZone

# A rule's description lists so many nodes at most.
_NAMED = 3


def build_firewall(spec: ClusterSpec, needs: tuple[str, ...]) -> Firewall:
    """The table of the lab: each rule once, in the order of the file."""
    rules = [_rule(spec, cluster, entry) for cluster in spec.clusters for entry in spec.networks[cluster].allow]
    return Firewall(
        name="lab",
        needs=needs,
        table=ids.table_name(spec.name),
        zones=tuple(_zone(spec, cluster) for cluster in spec.clusters),
        rules=tuple(dict.fromkeys(rules)),
    )


def aliases_for(spec: ClusterSpec, cluster: ClusterKind) -> tuple[DnsAlias, ...]:
    """Full and short names of the other clusters' nodes, for the DNS of this cluster's network.

    dnsmasq completes short names with the network's own domain, which is the guests' search domain. A guest therefore
    finds `cloud-control-plane` as well as `cloud-control-plane.cloud.demo.internal`.
    """
    return tuple(
        DnsAlias(
            name=node.name,
            ip=str(node.ip),
            names=(f"{node.name}.{ids.dns_domain(spec.name, other.value)}", node.name),
            ip_v6=text_v6(spec.networks[other].address_v6(node.ip)),
        )
        for other in spec.clusters
        if other is not cluster
        for node in spec.nodes_of(other)
    )


def _zone(spec: ClusterSpec, cluster: ClusterKind) -> FirewallZone:
    network = spec.networks[cluster]
    return FirewallZone(
        name=cluster.value,
        bridge=network.bridge,
        subnet=str(network.subnet),
        gateway=str(network.gateway),
        nat=network.nat,
        nat_private=network.nat_private,
        nodes=tuple(
            FilteredNode(
                name=node.name,
                mac=ids.mac_address(spec.name, node.name),
                ip=str(node.ip),
                ip_v6=text_v6(network.address_v6(node.ip)),
            )
            for node in spec.nodes_of(cluster)
        ),
        subnet_v6=text_v6(network.subnet_v6),
        gateway_v6=text_v6(network.gateway_v6),
    )


def text_v6(value: IPv6Address | IPv6Network | None) -> str:
    """As text, in the form that resources use: empty without IPv6."""
    return "" if value is None else str(value)


def _rule(spec: ClusterSpec, cluster: ClusterKind, entry: AllowSpec) -> FirewallRule:
    target = next(other for other in spec.clusters if other is not cluster)
    return FirewallRule(
        name=_described(cluster, target, entry),
        source_zone=cluster.value,
        target_zone=target.value,
        sources=_addresses(spec, entry.sources),
        targets=_addresses(spec, entry.targets),
        protocol=entry.protocol.value,
        ports=entry.ports,
    )


def _described(source: ClusterKind, target: ClusterKind, entry: AllowSpec) -> str:
    """The rule for people, as plans show it: `hpc-compute-1 to cloud: tcp 6443`."""
    start, end = _side(entry.sources, source), _side(entry.targets, target)
    return f"{start} to {end}: {' '.join((entry.protocol.value, *entry.ports))}"


def _side(names: tuple[str, ...], cluster: ClusterKind) -> str:
    if len(names) > _NAMED:
        return f"{len(names)} nodes of {cluster.value}"
    return ",".join(names) or cluster.value


def _addresses(spec: ClusterSpec, names: tuple[str, ...]) -> tuple[str, ...]:
    nodes = [node for node in spec.nodes if node.name in names]
    found = (spec.networks[node.role.cluster].address_v6(node.ip) for node in nodes)
    return (*(str(node.ip) for node in nodes), *(str(address) for address in found if address is not None))
