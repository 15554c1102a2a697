"""Networks of the host that a lab's pods cannot reach, because pods or services have the same addresses. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Network
from itertools import islice

from emulator.host.routes import HostNetwork
from emulator.labfile.findings import Finding, Report, Severity
from emulator.labfile.model import ClusterKind, ClusterSpec

POD_NETWORK_CODES = ("host.pod-subnet", "host.service-subnet")
_PRIVATE = tuple(map(IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
# Limits the search for a free network: 10.0.0.0/8 has 16 of /12, but 65536 of /24.
_MOST_TRIED = 4096


def check_pod_networks(
    spec: ClusterSpec, networks: Sequence[HostNetwork], report: Report, own: Collection[str]
) -> Iterator[Finding]:
    """Warnings about networks of the host that pods would reach through NAT if they had other addresses.

    Args:
        networks: the host's.
        report: of the lab file; it gives the positions.
        own: bridges of this lab, whose networks are not the host's.
    """
    network = spec.networks.get(ClusterKind.CLOUD)
    if spec.kubernetes is None or network is None or not network.nat:
        return
    pods, services = spec.kubernetes.pod_subnet, spec.kubernetes.service_subnet
    others = [each for each in networks if each.interface not in own and not each.is_discarded]
    for key, subnet, code in (
        ("pod_subnet", pods, POD_NETWORK_CODES[0]),
        ("service_subnet", services, POD_NETWORK_CODES[1]),
    ):
        hidden = [each for each in others if each.subnet.overlaps(subnet)]
        if not hidden:
            continue
        taken = [each.subnet for each in networks if isinstance(each.subnet, IPv4Network)]
        taken += [pods, services, *(each.subnet for each in spec.networks.values())]
        path = f"clusters.cloud.kubernetes_config.{key}"
        yield report.finding(
            Severity.WARNING,
            code,
            path,
            f"{_placed(hidden, key, subnet)}: pods do not reach it through NAT",
            f"choose another {key}{_free(subnet, taken)}, or leave it if no pod is to reach that network",
        )


def _placed(hidden: Sequence[HostNetwork], key: str, subnet: IPv4Network) -> str:
    """`10.244.3.0/24 (eth0) of this host lies in pod_subnet 10.244.0.0/16`."""
    inside = all(each.subnet.prefixlen >= subnet.prefixlen for each in hidden)
    listed = " and ".join(map(str, hidden[:3])) + (f" and {len(hidden) - 3} more" if hidden[3:] else "")
    relation = ("lie in" if hidden[1:] else "lies in") if inside else ("overlap" if hidden[1:] else "overlaps")
    return f"{listed} of this host {relation} {key} {subnet}"


def _free(subnet: IPv4Network, taken: Sequence[IPv4Network]) -> str:
    candidates = (
        candidate
        for block in _PRIVATE
        if block.prefixlen <= subnet.prefixlen
        for candidate in islice(block.subnets(new_prefix=subnet.prefixlen), _MOST_TRIED)
    )
    free = next((each for each in candidates if not any(each.overlaps(other) for other in taken)), None)
    return f" such as {free}" if free else ""
