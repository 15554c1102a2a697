"""The ssh configuration that a user takes home: every node by way of the host's gateway. Pure.

It holds no command, so that it means the same to OpenSSH on Linux, macOS and Windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path

from emulator.core.gateway.names import ACCOUNT, API_PORT, Door, forwards_host, gateway_host, local_port
from emulator.credentials.ssh_config import CONNECT_TIMEOUT, checked_name, client_settings

_KEY, _CERTIFICATE, _KNOWN_HOSTS = "id_ed25519", "gateway-cert.pub", "known_hosts"


@dataclass(frozen=True, slots=True)
class GatewayWay:
    """All that the configuration says.

    Attributes:
        lab: its name.
        door: the gateway.
        directory: where the user keeps the files, in ssh's notation.
        user: the account on the nodes.
        nodes: names, and addresses in the gateway.
        forwards: ports, and addresses in the gateway.
    """

    lab: str
    door: Door
    directory: str
    user: str
    nodes: tuple[tuple[str, IPv6Address], ...]
    forwards: tuple[tuple[int, IPv6Address], ...] = ()


def gateway_config(way: GatewayWay) -> str:
    """A configuration with which `ssh -F FILE NODE` works from anywhere that reaches the gateway.

    Only the names in it are affected, so that a user's own configuration can include the file.
    """
    home, gateway = Path(way.directory), gateway_host(way.lab)
    # As a node is known by its name alone: in the gateway an address says whose it is, and not where it leads.
    known = client_settings(home / _KEY, home / _KNOWN_HOSTS)
    shared = [f"    {name} {value}" for name, value in known.items()]
    doors = f"{gateway} {forwards_host(way.lab)}" if way.forwards else gateway
    lines = ["# Written by hyperscaler; the next `hyperscaler access add` writes it anew."]
    for node, address in way.nodes:
        lines += [
            f"Host {checked_name(node)}",
            f"    HostName {address}",
            f"    HostKeyAlias {node}",
            f"    User {checked_name(way.user)}",
            f"    ProxyJump {gateway}",
            *shared,
            f"    ConnectTimeout {CONNECT_TIMEOUT}",
        ]
    if way.forwards:
        lines.append(f"Host {forwards_host(way.lab)}")
        lines += [
            f"    LocalForward 127.0.0.1:{forwarded_port(way.lab, port)} [{address}]:{port}"
            for port, address in way.forwards
        ]
        lines.append("    ExitOnForwardFailure yes")
    lines += [
        f"Host {doors}",
        f"    HostName {checked_name(way.door.address) if ':' not in way.door.address else way.door.address}",
        f"    HostKeyAlias {gateway}",
        f"    Port {way.door.port}",
        f"    User {ACCOUNT}",
        f"    CertificateFile {way.directory}/{_CERTIFICATE}",
        *shared,
        f"    ConnectTimeout {CONNECT_TIMEOUT}",
    ]
    return "\n".join(lines) + "\n"


def forwarded_port(lab: str, port: int) -> int:
    """The port of the user's own machine at which a port of the lab is."""
    return local_port(lab) if port == API_PORT else port
