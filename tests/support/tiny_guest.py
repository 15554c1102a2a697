"""Real domains that need no image: a kernel of four instructions, and the requests around it."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from uuid import UUID, uuid5

from emulator.core.ids import NAMESPACE
from emulator.core.ports import DhcpHost, DomainRequest, NetworkRequest, Ownership

LAB = "contract"


def halting_kernel() -> bytes:
    """A file with the header of a Linux bzImage (Documentation/arch/x86/boot.rst) whose setup code is `cli; hlt`.

    The processor stays halted, so a guest costs no CPU time, and no ACPI event ever reaches it.
    """
    image = bytearray(4 * 512)
    image[0x1F1] = 1  # setup_sects
    struct.pack_into("<H", image, 0x1FE, 0xAA55)  # boot_flag
    image[0x200:0x202] = b"\xeb\x66"  # jump over the header to 0x268
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, 0x0206)  # protocol version
    image[0x211] = 1  # loadflags: LOADED_HIGH
    struct.pack_into("<I", image, 0x22C, 0x37FFFFFF)  # initrd_addr_max
    struct.pack_into("<I", image, 0x238, 2047)  # cmdline_size
    image[0x268:0x26C] = b"\xfa\xf4\xeb\xfd"  # cli; hlt; jump to hlt
    return bytes(image)


@dataclass(frozen=True)
class TinyGuests:
    """Requests whose files lie in `root`; each request can be changed with `dataclasses.replace`."""

    root: Path

    @classmethod
    def prepare(cls, root: Path) -> TinyGuests:
        root.mkdir(parents=True, exist_ok=True)
        (root / "vmlinuz").write_bytes(halting_kernel())
        (root / "initrd").write_bytes(os.urandom(512))
        return cls(root)

    def uuid(self, name: str) -> UUID:
        return uuid5(NAMESPACE, f"{self.root}/{name}")

    def domain(self, name: str, *, disk: Path, network: str = "net", index: int = 1) -> DomainRequest:
        return DomainRequest(
            name=name,
            uuid=self.uuid(name),
            owner=Ownership(LAB, f"domain/{name}", "d1"),
            vcpus=1,
            memory_mib=64,
            disk=disk,
            kernel=self.root / "vmlinuz",
            initrd=self.root / "initrd",
            cmdline="console=ttyS0",
            network=network,
            mac=f"52:54:00:00:00:{index:02x}",
            console_log=self.root / f"{name}.log",
            accelerated=False,
            credentials={"lab.authorized_key": "ssh-ed25519 AAAA a,b=c"},
        )

    def network(self, name: str = "net", *, bridge: str = "hsbr0", hosts: int = 2) -> NetworkRequest:
        return NetworkRequest(
            name=name,
            uuid=self.uuid(f"network/{name}"),
            owner=Ownership(LAB, f"network/{name}", "d1"),
            bridge=bridge,
            subnet=IPv4Network("192.168.90.0/24"),
            gateway=IPv4Address("192.168.90.1"),
            dns_domain="contract.lab",
            hosts=tuple(
                DhcpHost(f"52:54:00:00:00:{index:02x}", IPv4Address(f"192.168.90.{10 + index}"), f"n{index}")
                for index in range(1, hosts + 1)
            ),
        )


def with_digest(request: DomainRequest, digest: str) -> DomainRequest:
    return replace(request, owner=replace(request.owner, digest=digest))


def printing_kernel() -> bytes:
    """The same, but its setup code writes to the first serial port for ever."""
    image = bytearray(halting_kernel())
    # mov dx, 0x3f8; mov al, 'A'; out dx, al; jump back to out
    image[0x268:0x270] = b"\xba\xf8\x03\xb0\x41\xee\xeb\xfd"
    return bytes(image)


def counting_kernel() -> bytes:
    """The same, but it counts in its memory for ever, and says each number as eight letters (a is 0, p is 15) and a
    line end. The count begins at zero when it boots."""
    code = bytes.fromhex(
        "fa"  # cli
        "bb0000"  # mov bx, 0            the lower half of the count, in si:bx
        "31f6"  # xor si, si
        # next:
        "83c301"  # add bx, 1
        "83d600"  # adc si, 0
        "baf803"  # mov dx, 0x3f8
        "89f0"  # mov ax, si
        "b90400"  # mov cx, 4
        "89c7"  # mov di, ax
        # letters of the upper half
        "c1c704"  # rol di, 4
        "89f8"  # mov ax, di
        "240f"  # and al, 15
        "0461"  # add al, 'a'
        "ee"  # out dx, al
        "e2f4"  # loop -12
        "b90400"  # mov cx, 4            letters of the lower half
        "89df"  # mov di, bx
        "c1c704"
        "89f8"
        "240f"
        "0461"
        "ee"
        "e2f4"
        "b00a"  # mov al, 10
        "ee"  # out dx, al
        "ebce"  # jmp next
    )
    image = bytearray(halting_kernel())
    image[0x268 : 0x268 + len(code)] = code
    return bytes(image)
