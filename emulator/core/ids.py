"""Identities by which a lab's own things are recognised without any state file."""

from __future__ import annotations

import hashlib
import uuid
from ipaddress import IPv6Address

# UUIDv5 namespace of the product: the UUIDv5 of its name in the DNS namespace, frozen here because
# every UUID ever handed out derives from it.
NAMESPACE = uuid.UUID("c29092c8-f8f1-5ec9-aa24-092642a86b29")

# The URI of our <metadata> element in libvirt domain and network XML.
METADATA_URI = "https://hyperscaler.invalid/lab/1"


def resource_uuid(lab: str, resource_id: str) -> uuid.UUID:
    """The UUID of a resource (domain, network, vGPU) of a lab: stable over runs and hosts."""
    return uuid.uuid5(NAMESPACE, f"{lab}/{resource_id}")


def mac_address(lab: str, node: str) -> str:
    """A stable MAC address in QEMU's locally used prefix 52:54:00."""
    digest = hashlib.sha256(f"{lab}/{node}".encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def link_local_address(mac: str) -> IPv6Address:
    """The IPv6 link-local address of an interface by its MAC address (RFC 4291, appendix A: modified EUI-64)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    return IPv6Address(b"\xfe\x80" + bytes(6) + bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:])


def host_name(lab: str, name: str) -> str:
    """Name of a domain, volume or network on the host: ``<lab>-<name>``."""
    return f"{lab}-{name}"


def table_name(lab: str) -> str:
    """Name of the lab's nftables table."""
    return f"hyperscaler_{lab}"


def handout_home(lab: str) -> str:
    """The directory, in ssh's notation, where a user of the lab keeps the received access files."""
    return f"~/.ssh/hyperscaler-{lab}"


def dns_domain(lab: str, cluster: str) -> str:
    """DNS domain of a cluster's nodes."""
    return f"{cluster}.{lab}.internal"
