"""Whether this host can run the lab. Pure: the facts of the host are passed in as a value."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network

from emulator.host.facts import HostFacts
from emulator.host.pod_networks import check_pod_networks
from emulator.labfile.findings import Finding, Report, Severity, counted
from emulator.labfile.model import FOOTPRINT_GIB, ClusterSpec, NodeSpec
from emulator.labfile.networks import NetworkSpec

# MiB that QEMU itself takes for each node in addition to the guest's memory: device models, page tables, TCG's cache.
OVERHEAD_MIB = 128
# Findings where the host is large enough, but something else already uses what the lab asks for.
CONFLICTS = frozenset({"host.subnet", "host.bridge"})


def check_host(
    spec: ClusterSpec,
    host: HostFacts,
    *,
    report: Report,
    private_network: bool,
    own_bridges: Collection[str] = (),
    existing: Collection[str] = (),
    holders: Mapping[str, str] | None = None,
) -> list[Finding]:
    """Findings about the lab on this host.

    Args:
        report: of the same file; it gives the positions.
        private_network: the hypervisor has a network namespace of its own (the embedded one), so that the
            host's networks and bridges do not matter.
        own_bridges: bridges that this lab has made already.
        existing: names of nodes (`NodeSpec.name`) that run already: their memory and disk are not asked for again.
        holders: whose a bridge is, where that is known, by the bridge's name.
    """
    to_come = tuple(node for node in spec.nodes if node.name not in existing)
    found = [
        *_memory(spec.nodes, to_come, host, report),
        *_disk(spec, to_come, host, report),
        *_cores(spec, host, report),
    ]
    found.extend(check_pod_networks(spec, host.networks, report, frozenset(own_bridges)))
    if not private_network:
        for network in spec.networks.values():
            others = [each for each in _subnets(spec) if each not in (network.subnet, network.subnet_v6)]
            found.extend(_network(network, host, report, frozenset(own_bridges), holders or {}, others))
    return found


def _memory(
    nodes: tuple[NodeSpec, ...], to_come: tuple[NodeSpec, ...], host: HostFacts, report: Report
) -> Iterable[Finding]:
    wanted = sum(node.memory_mib + OVERHEAD_MIB for node in nodes)
    fix = f"lower memory_gb or the number of nodes; the largest is {_largest(nodes)}"
    if wanted > host.memory_usable_mib:
        reserved = host.memory_reserved_mib
        pages = f", {_gib(reserved)} of it reserved as huge pages, which labs do not use" if reserved else ""
        if wanted <= host.memory_total_mib:
            fix = f"sysctl vm.nr_hugepages=0 if nothing else needs them; or {fix}"
        yield report.finding(
            Severity.ERROR,
            "host.memory",
            "clusters",
            f"{counted(len(nodes), 'node')} with {OVERHEAD_MIB} MiB for QEMU each take {_gib(wanted)} of memory, "
            f"and this host has {_gib(host.memory_total_mib)} in all{pages}",
            fix,
        )
        return
    more = sum(node.memory_mib + OVERHEAD_MIB for node in to_come)
    if more > host.memory_available_mib:
        yield report.finding(
            Severity.WARNING,
            "host.memory-available",
            "clusters",
            f"{_gib(more)} of memory for {counted(len(to_come), 'node')} to start, and "
            f"{_gib(host.memory_available_mib)} is free now",
            "end other programs, or lower memory_gb",
        )


def _disk(spec: ClusterSpec, nodes: tuple[NodeSpec, ...], host: HostFacts, report: Report) -> Iterable[Finding]:
    if not nodes:
        return
    reserve = spec.hypervisor.disk_reserve_gib
    wanted = sum(node.disk_gib for node in nodes)
    least = FOOTPRINT_GIB * len(nodes)
    free = f"{host.disk_free_gib:.1f} GiB"
    if least > host.disk_free_gib:
        yield report.finding(
            Severity.ERROR,
            "host.disk",
            "clusters",
            f"at least {least} GiB of disk for {counted(len(nodes), 'node')} ({FOOTPRINT_GIB} GiB each), "
            f"and {free} is free",
            "free some space (`hyperscaler image gc`), or set HYPERSCALER_HOME to a larger disk",
        )
    elif least + reserve > host.disk_free_gib:
        yield report.finding(
            Severity.ERROR,
            "host.disk-reserve",
            "clusters",
            f"at least {least} GiB of disk for {counted(len(nodes), 'node')} would leave less than the reserve of "
            f"{reserve:g} GiB, and {free} is free",
            "free some space (`hyperscaler image gc`), set HYPERSCALER_HOME to a larger disk, or lower "
            "hypervisor.disk_reserve_gb",
        )
    elif wanted + reserve > host.disk_free_gib:
        end = f"only the reserve of {reserve:g} GiB is left" if reserve else "the space is used up"
        yield report.finding(
            Severity.WARNING,
            "host.disk-thin",
            "clusters",
            f"{wanted} GiB of disk for {counted(len(nodes), 'node')}, and {free} is free; disks are thin and grow as "
            f"they are written, so the lab starts, and guests whose disks grow are paused once {end}",
            "lower disk_gb, or set HYPERSCALER_HOME to a larger disk",
        )


def _cores(spec: ClusterSpec, host: HostFacts, report: Report) -> Iterable[Finding]:
    wanted = sum(node.cpu_cores for node in spec.nodes)
    limit = spec.hypervisor.cpu_overcommit
    if wanted > host.cores * limit:
        yield report.finding(
            Severity.WARNING,
            "host.cores",
            "clusters",
            f"the nodes have {wanted} cores in all, this host {host.cores}: {wanted / host.cores:.1f} for each, "
            f"and the limit is {limit:g}",
            "lower cpu_cores, or raise hypervisor.cpu_overcommit if slow nodes are fine",
        )


def _network(
    network: NetworkSpec,
    host: HostFacts,
    report: Report,
    own: frozenset[str],
    holders: Mapping[str, str],
    others: Sequence[IPv4Network | IPv6Network],
) -> Iterable[Finding]:
    path = f"global.networks.{network.cluster.value}_network"
    subnets: tuple[tuple[str, IPv4Network | IPv6Network | None], ...] = (
        ("subnet", network.subnet),
        ("subnet_v6", network.subnet_v6),
    )
    for key, subnet in subnets:
        taken = next(
            (each for each in host.networks if each.interface not in own and subnet and each.blocks(subnet)),
            None,
        )
        if subnet is None or taken is None:
            continue
        whose = f", of {holders[taken.interface]}" if taken.interface in holders else ""
        elsewhere = _free_example([*others, *(each.subnet for each in host.networks)], subnet.version)
        yield report.finding(
            Severity.ERROR,
            "host.subnet",
            f"{path}.{key}",
            f"{subnet} overlaps {taken.subnet}, which this host {taken.use}{whose}",
            f"choose another subnet{elsewhere}, or `hypervisor: {{uri: embedded}}` with networks of its own",
        )
    if network.bridge in host.interfaces and network.bridge not in own:
        there = f"this host already has an interface {network.bridge}"
        yield report.finding(
            Severity.ERROR,
            "host.bridge",
            f"{path}.bridge",
            f"bridge {network.bridge} belongs to {holders[network.bridge]}" if network.bridge in holders else there,
            "choose another name, or `hypervisor: {uri: embedded}` with bridges of its own",
        )


def _subnets(spec: ClusterSpec) -> list[IPv4Network | IPv6Network]:
    """All networks of the lab."""
    kubernetes = (spec.kubernetes.pod_subnet, spec.kubernetes.service_subnet) if spec.kubernetes else ()
    nodes = (subnet for each in spec.networks.values() for subnet in (each.subnet, each.subnet_v6) if subnet)
    return [*nodes, *kubernetes]


def _free_example(taken: Sequence[IPv4Network | IPv6Network], version: int) -> str:
    candidates: Iterable[IPv4Network | IPv6Network] = (
        (IPv4Network(f"192.168.{third}.0/24") for third in range(101, 200))
        if version == 4
        else (IPv6Network(f"fd12:3456:789a:{number}::/64") for number in range(101, 200))
    )
    free = next((net for net in candidates if not any(map(net.overlaps, taken))), None)
    return f" such as {free}" if free else ""


def _largest(nodes: tuple[NodeSpec, ...]) -> str:
    node = max(nodes, key=lambda each: each.memory_mib)
    return f"{node.name} with {_gib(node.memory_mib)}"


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f} GiB"
