"""A router advertisement, byte by byte, for tests of who listens to one."""

from __future__ import annotations

import struct
import subprocess
import sys
from ipaddress import IPv6Address

from emulator.core.ids import link_local_address

ALL_NODES = IPv6Address("ff02::1")
_SEND = """
import socket, sys
frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
frames.bind((sys.argv[1], 0))
frames.send(bytes.fromhex(sys.argv[2]))
"""


def advertisement(mac: str) -> bytes:
    """An Ethernet frame: who has this address calls itself a router for half an hour (RFC 4861, 4.2)."""
    ethernet, source = bytes.fromhex(mac.replace(":", "")), link_local_address(mac)
    # Type 134, code 0, checksum, hop limit, flags, router lifetime, reachable time, retransmission timer; then the
    # source's link-layer address as an option of 8 bytes.
    after = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + b"\x01\x01" + ethernet
    size = 4 + len(after)
    pseudo = source.packed + ALL_NODES.packed + struct.pack("!I3xB", size, 58)
    message = struct.pack("!BBH", 134, 0, _checksum(pseudo + struct.pack("!BBH", 134, 0, 0) + after)) + after
    header = struct.pack("!IHBB", 6 << 28, size, 58, 255) + source.packed + ALL_NODES.packed
    return b"\x33\x33\x00\x00\x00\x01" + ethernet + b"\x86\xdd" + header + message


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def advertise(namespace: str, interface: str, mac: str) -> None:
    """Send it out of an interface of a network namespace."""
    words = ["ip", "netns", "exec", namespace, sys.executable, "-c", _SEND, interface, advertisement(mac).hex()]
    subprocess.run(words, check=True, timeout=30)
