"""Values for remedies: each passes the checks of the file that it is printed for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_interface
from itertools import chain, islice

from emulator.labfile.draft import Draft, NetworkDraft
from emulator.labfile.layout import Networks
from emulator.labfile.model import POD_SUBNET, SERVICE_SUBNET, ClusterKind, Role
from emulator.labfile.read.view import View

Addresses = Mapping[Role, tuple[IPv4Address, ...]]

# The kubelet of every node takes a /24 of the pod network.
POD_PREFIX_PER_NODE = 24
# The longest and the shortest network of the services (kube-apiserver takes none larger than a /12).
SERVICE_PREFIXES = (12, 24)
_POOLS = tuple(IPv4Network(each) for each in ("192.168.0.0/16", "172.16.0.0/12", "10.0.0.0/8"))
# No more networks than these overlap a few others.
_MOST_CANDIDATES = 4096
_POOL_V6 = IPv6Network("fd12:3456:789a::/48")

# Networks that a lab must not take even when nothing else in the file has them.
_RESERVED = (
    (IPv4Network("0.0.0.0/8"), "means 'this network'"),
    (IPv4Network("127.0.0.0/8"), "is the loopback network of every machine"),
    (IPv4Network("169.254.0.0/16"), "is for link-local addresses"),
    (IPv4Network("224.0.0.0/3"), "is for multicast and reserved addresses"),
    (IPv6Network("::/8"), "holds the loopback address, and IPv4 addresses in other forms"),
    (IPv6Network("fe80::/10"), "is for link-local addresses"),
    (IPv6Network("fec0::/10"), "was for site-local addresses, which are no longer routed"),
    (IPv6Network("ff00::/8"), "is for multicast"),
)


def reserved(subnet: IPv4Network | IPv6Network) -> str:
    """Why no network of a lab can be there; empty when one can."""
    return next((f"{network} {why}" for network, why in _RESERVED if subnet.overlaps(network)), "")


def has_host_bits(view: View, subnet: IPv4Network | IPv6Network) -> bool:
    """Whether the file gives an address in the network in place of the network's own."""
    text = view.plain()
    return isinstance(text, str) and ip_interface(text).ip != subnet.network_address


def others(draft: Draft, view: View) -> list[IPv4Network]:
    """The IPv4 networks of the lab, except the one at `view`."""
    places = {network.view.child("subnet").path: network.subnet for network in draft.networks.values()}
    if draft.kubernetes is not None:
        places[draft.kubernetes.view.child("pod_subnet").path] = draft.kubernetes.pod_subnet
        places[draft.kubernetes.view.child("service_subnet").path] = draft.kubernetes.service_subnet
    return [subnet for path, subnet in places.items() if subnet is not None and path != view.path]


def free_network(
    draft: Draft, view: View, *, prefix: int = 24, preferred: Iterable[IPv4Network] = ()
) -> IPv4Network | None:
    """A network for `view` that overlaps no other one of the lab; None when there is none of that size.

    Args:
        prefix: its length, unless a preferred one is free.
        preferred: networks to try first.
    """
    taken = others(draft, view)
    candidates = chain(preferred, *(_parts(pool, prefix) for pool in _POOLS))
    return next((each for each in candidates if not reserved(each) and not any(map(each.overlaps, taken))), None)


def _parts(pool: IPv4Network, prefix: int) -> Iterator[IPv4Network]:
    """The networks of a pool from the highest down: the low ones are what people have at home."""
    if pool.prefixlen <= prefix:
        size = 2 ** (pool.max_prefixlen - prefix)
        for number in range(min(pool.num_addresses // size, _MOST_CANDIDATES), 0, -1):
            yield IPv4Network((int(pool.network_address) + (number - 1) * size, prefix))


def default_network(network: NetworkDraft) -> IPv4Network:
    defaults = Networks()
    own = {ClusterKind.HPC: defaults.hpc_network, ClusterKind.CLOUD: defaults.cloud_network}
    return own[network.kind].subnet


def example_subnet(draft: Draft, network: NetworkDraft, *preferred: IPv4Network) -> str:
    """`for example 192.168.100.0/24`: a subnet that this network of the lab can have."""
    own = network.view.child("subnet")
    return for_example(free_network(draft, own, preferred=(*preferred, default_network(network))))


def example_subnet_v6(draft: Draft, network: NetworkDraft, *preferred: IPv6Network) -> str:
    """As `example_subnet`, for IPv6; empty when there is none."""
    taken = [each.subnet_v6 for each in draft.networks.values() if each is not network and each.subnet_v6]
    numbered = islice(_POOL_V6.subnets(new_prefix=64), 0x100, 0x400, 0x100)
    free = next((each for each in (*preferred, *numbered) if not any(map(each.overlaps, taken))), None)
    return f"for example {free}" if free else ""


def example_bridge(draft: Draft, network: NetworkDraft) -> str:
    defaults = {ClusterKind.HPC: Networks().hpc_network.bridge, ClusterKind.CLOUD: Networks().cloud_network.bridge}
    taken = {each.bridge for each in draft.networks.values() if each is not network}
    free = next(each for each in (defaults[network.kind], "virbr101", "virbr201") if each not in taken)
    return f"for example {free}"


def pod_prefix(draft: Draft, addresses: Addresses) -> int:
    """The longest prefix of a pod network in which each node has its own /24.

    With the built-in network that /24 has the number of the node's address, so that it stays while others come and go.
    """
    needed = max(
        sum(group.count or 0 for group in draft.groups_of(ClusterKind.CLOUD)) - 1, last_number(draft, addresses)
    )
    return POD_PREFIX_PER_NODE - needed.bit_length()


def last_number(draft: Draft, addresses: Addresses) -> int:
    """The highest number of a node's address in its subnet, where pod networks are numbered by it; else 0."""
    kubernetes, network = draft.kubernetes, draft.networks.get(ClusterKind.CLOUD)
    given = [address for role, each in addresses.items() if role.cluster is ClusterKind.CLOUD for address in each]
    if kubernetes is None or network is None or network.subnet is None or not given:
        return 0
    built_in = kubernetes.view.usable("cni", kubernetes.spec.cni) == "bridge"
    return int(max(given)) - int(network.subnet.network_address) if built_in else 0


def free_pod_network(draft: Draft, addresses: Addresses, *preferred: IPv4Network) -> IPv4Network | None:
    """A network for the pods with room for all nodes."""
    assert draft.kubernetes is not None  # noqa: S101  asked for a Kubernetes cluster only
    needed = pod_prefix(draft, addresses)
    large = [each for each in (*preferred, POD_SUBNET) if each.prefixlen <= needed]
    view = draft.kubernetes.view.child("pod_subnet")
    return free_network(draft, view, prefix=min(needed, POD_SUBNET.prefixlen), preferred=large)


def free_service_network(draft: Draft, *preferred: IPv4Network) -> IPv4Network | None:
    """A network for the services."""
    assert draft.kubernetes is not None  # noqa: S101  asked for a Kubernetes cluster only
    usable = [each for each in preferred if SERVICE_PREFIXES[0] <= each.prefixlen <= SERVICE_PREFIXES[1]]
    view = draft.kubernetes.view.child("service_subnet")
    return free_network(draft, view, prefix=16, preferred=(*usable, SERVICE_SUBNET))


def for_example(network: IPv4Network | None) -> str:
    return f"for example {network}" if network else "take another private network"
