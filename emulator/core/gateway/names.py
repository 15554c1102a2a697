"""The host's gateway: where it is, and by which addresses it knows what a user of a lab may reach. Pure.

Inside the gateway's own network namespace each node of each user has an address of its own. The ssh server decides who
may open one, the lab's relay knows whose it is and where it leads, and neither asks the other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

from emulator.core.errors import StateError

ACCOUNT = "hyperscaler-gateway"
"""The account of the ssh server and of the relays; it is also what clients log in as."""
NAMESPACE = "hyperscaler-gateway"
"""Network namespace of the ssh server; no lab's has this name."""
PLACE = Path("/run/hyperscaler-gateway")
"""What the server reads: root's, readable by its account."""
NETWORK = IPv6Network("fd47::/16")
"""Of the addresses inside the namespace. They lead nowhere else."""
UNIT = "hyperscaler_gateway.service"
"""The unit that has it start with the host; no lab's has this name, since theirs have no underscore."""
DEFAULT_PORT = 2222
SSH_PORT, API_PORT = 22, 6443
_LOWEST, _GROUPS = 0x1000, 7


def endpoint(home: str, lab: str, user: str, node: str) -> IPv6Address:
    """The address of a user's node in the gateway.

    No group of it has fewer than four digits, so that there is one way to write it: the server compares text.

    Args:
        home: `Home.id` of the lab's home directory.
        lab: its name.
        user: whose access it is.
        node: what is reached.
    """
    digest = hashlib.sha256("\0".join((home, lab, user, node)).encode()).digest()
    groups = [int.from_bytes(digest[2 * place : 2 * place + 2], "big") for place in range(_GROUPS)]
    value = int(NETWORK.network_address) >> 112
    for group in groups:
        value = value << 16 | (_LOWEST + group % (0x10000 - _LOWEST))
    return IPv6Address(value)


def principal(lab: str, user: str, serial: int) -> str:
    """What a certificate for the gateway names. One for each certificate, so that a revoked one is not listed."""
    return f"gateway/{lab}/{user}/{serial}"


def gateway_host(lab: str) -> str:
    """The gateway's name in the ssh configuration of the lab's users."""
    return f"{lab}-gateway"


def forwards_host(lab: str) -> str:
    """The name in that configuration under which the lab's ports are forwarded."""
    return f"{lab}-kubernetes"


def local_port(lab: str) -> int:
    """The port of a user's own machine at which the lab's Kubernetes API is: the same each time, between 20000 and
    29999, and most likely another one than that of the user's other labs."""
    return 20000 + int.from_bytes(hashlib.sha256(lab.encode()).digest()[:4], "big") % 10000


@dataclass(frozen=True, slots=True)
class Target:
    """A port of a node that users may reach. `shared`: all users of the lab; else those with access to the node."""

    node: str
    ip: IPv4Address
    port: int
    shared: bool = False

    def __str__(self) -> str:
        return f"{'all' if self.shared else 'own'}:{self.node}={self.ip}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """The inverse of `str`.

        Raises:
            StateError: it is none.
        """
        whose, _, rest = text.partition(":")
        node, _, place = rest.partition("=")
        ip, _, port = place.partition(":")
        try:
            if whose not in ("all", "own") or not node or not 0 < int(port) < 65536:
                raise ValueError
            return cls(node, IPv4Address(ip), int(port), shared=whose == "all")
        except (ValueError, AddressValueError):
            raise StateError(f"{text!r} is not what the gateway can lead to") from None


@dataclass(frozen=True, slots=True)
class Door:
    """How clients find the host's gateway: `address` is a name or an address, `host_key` is `TYPE BASE64`."""

    address: str
    port: int
    host_key: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address inside the gateway's namespace, whose it is, and where it leads."""

    address: str
    port: int
    user: str
    node: str
    ip: str
