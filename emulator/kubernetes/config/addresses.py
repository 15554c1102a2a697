"""Networks of a cluster that follow from the lab file. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from itertools import islice

from emulator.core.errors import ConfigError
from emulator.labfile.model import ClusterKind, ClusterSpec

# Pods per node come from a network of this prefix length: 254 addresses, where kubelet allows 110 pods.
NODE_PREFIX = 24


def pod_subnets(spec: ClusterSpec) -> Mapping[str, IPv4Network]:
    """The pods' network of each Kubernetes node, by node name.

    It follows from the node's own address (10.20.0.11 in a /24 gives the network number 11), so that it stays the
    same while other nodes come and go. Only where the pod network is too small for that, a free number is taken.

    Raises:
        ConfigError: there are more nodes than networks.
    """
    if spec.kubernetes is None:
        return {}
    pods = spec.kubernetes.pod_subnet
    room = 2 ** max(NODE_PREFIX - pods.prefixlen, 0) if pods.prefixlen <= NODE_PREFIX else 0
    nodes = spec.nodes_of(ClusterKind.CLOUD)
    if len(nodes) > room:
        raise ConfigError(
            f"{pods} has room for {room} networks of pods, and the cluster has {len(nodes)} nodes",
            where="clusters.cloud.kubernetes_config.pod_subnet",
            fix="choose a larger network, for example 10.244.0.0/16",
        )
    base = int(spec.networks[ClusterKind.CLOUD].subnet.network_address)
    numbers = {node.name: int(node.ip) - base for node in nodes if int(node.ip) - base < room}
    free = (number for number in range(room) if number not in set(numbers.values()))
    late = [node.name for node in nodes if node.name not in numbers]
    numbers |= dict(zip(late, islice(free, len(late)), strict=True))
    first = int(pods.network_address)
    size = 2 ** (32 - NODE_PREFIX)
    return {node.name: IPv4Network((IPv4Address(first + numbers[node.name] * size), NODE_PREFIX)) for node in nodes}
