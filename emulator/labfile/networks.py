"""The networks of a lab: what the file says of each, and what may pass between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated

from emulator.labfile.forms import (
    Bridge,
    NodeName,
    Port,
    PrivateRange,
    Subnet,
    SubnetV6,
)
from emulator.labfile.key import key


class ClusterKind(StrEnum):
    """The two clusters of a lab, by their keys in the file."""

    HPC = "hpc"
    CLOUD = "cloud"


CLUSTER_NAMES: Mapping[ClusterKind, str] = {ClusterKind.HPC: "Slurm", ClusterKind.CLOUD: "Kubernetes"}
"""As messages have them."""


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"
    ICMP = "icmp"


@dataclass(frozen=True, slots=True)
class AllowSpec:
    """What nodes of one network may begin towards nodes of the other; answers always pass.

    `sources` and `targets` are names of nodes (in the file of groups, too), empty for all of them. `ports` are numbers
    and ranges (`8000-8100`), in a `ClusterSpec` in ascending order without overlaps; with ICMP, which means echo
    requests, there are none.
    """

    sources: Annotated[
        tuple[NodeName, ...],
        key(
            "Nodes of this network by name (such as hpc-compute-1) or group (hpc-compute). Default: all of them.",
            name="from",
            computed=True,
            minItems=1,
            maxItems=256,
        ),
    ] = ()
    targets: Annotated[
        tuple[NodeName, ...],
        key(
            "Nodes of the other network by name or group. Default: all of them.",
            name="to",
            computed=True,
            minItems=1,
            maxItems=256,
        ),
    ] = ()
    protocol: Annotated[Protocol, key("icmp means ping, and has no ports.")] = Protocol.TCP
    ports: Annotated[
        tuple[Port, ...],
        key(
            "Ports and ranges of ports; required with tcp and udp.",
            computed=True,
            minItems=1,
            maxItems=64,
            examples=[[6443, "30000-32767"]],
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """One isolated network; the first usable address of `subnet` is the gateway, held by the host's bridge.

    `allow` lists what its nodes may reach in the other cluster's network, `nat_private` the private ranges that they
    may reach through the host when `nat` is on. `subnet_v6`, a /64, is None where nothing
    passes in IPv6.
    """

    cluster: ClusterKind
    subnet: Annotated[
        Subnet,
        key(
            "IPv4 network in CIDR form, /16 to /29. Its first address is the gateway, held by the host's bridge.",
            expects="an IPv4 network such as 192.168.100.0/24",
            examples=["192.168.100.0/24"],
        ),
    ]
    bridge: Annotated[
        Bridge,
        key("Name of the bridge on the host, at most 15 characters (the kernel's limit for interface names)."),
    ]
    nat: Annotated[
        bool,
        key(
            "Let the guests reach public addresses through the host, and the private ones in `nat_private`. False"
            " isolates the network: nothing leaves it except towards what `allow` lists."
        ),
    ] = False
    allow: Annotated[
        tuple[
            Annotated[
                AllowSpec,
                key(
                    "What may pass from nodes of this network to nodes of the other. A group is the name of its nodes"
                    " without the number."
                ),
            ],
            ...,
        ],
        key(
            "What the nodes may reach on nodes of the other network; everything else between the two networks is"
            " refused. Answers always pass.",
            maxItems=64,
        ),
    ] = ()
    subnet_v6: Annotated[
        SubnetV6 | None,
        key(
            "IPv6 network of 64 bits in addition to the IPv4 one; without it nothing passes in IPv6. Its first address"
            " is the gateway, and each node has the same number in it as in `subnet`."
        ),
    ] = None
    nat_private: Annotated[
        tuple[Annotated[PrivateRange, key("A private network beyond the host.")], ...],
        key(
            "Private ranges that the nodes may reach through the host when `nat` is true, such as the network of a"
            " package mirror or proxy. All others are refused, and link-local addresses always.",
            maxItems=32,
        ),
    ] = ()

    @property
    def gateway(self) -> IPv4Address:
        return self.subnet.network_address + 1

    @property
    def gateway_v6(self) -> IPv6Address | None:
        return self.address_v6(self.gateway)

    def address_v6(self, address: IPv4Address) -> IPv6Address | None:
        """The IPv6 address that goes with an address of `subnet`: the same number in `subnet_v6`."""
        if self.subnet_v6 is None:
            return None
        return self.subnet_v6.network_address + (int(address) - int(self.subnet.network_address))
