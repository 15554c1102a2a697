"""Lets one user open a device of the host for a moment, by an entry in its access control list.

libvirt gives a QEMU whose user has no name no further groups, and udev gives /dev/kvm to a group. QEMU opens it once:
the entry is there while a guest starts, and what others may do stays as it was. acl(5) has the rules,
<linux/posix_acl_xattr.h> the format.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emulator.adapters.embedded.network_namespace import shared_notes
from emulator.core.errors import HypervisorError
from emulator.core.ports.guest_accounts import GuestAccount

KVM = Path("/dev/kvm")

_XATTR = "system.posix_acl_access"
_VERSION = 2
_OWNER, _USER, _GROUP, _NAMED_GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_READ_WRITE = 0o6


@dataclass(frozen=True, slots=True, order=True)
class _Entry:
    """In the order that the kernel asks for: by tag, then by number."""

    tag: int
    number: int
    rights: int


@contextmanager
def opened_for(account: GuestAccount, device: Path = KVM) -> Iterator[None]:
    """While the block runs, the user may open the device; nothing is changed if the device lets it anyway, or is not
    there. After a crash in the block the entry stays until the host boots, or until the same user's next turn.

    Raises:
        HypervisorError: the list cannot be changed.
    """
    if not device.exists() or _lets(device, account):
        yield
        return
    _change(device, account.uid, allowed=True)
    try:
        yield
    finally:
        _change(device, account.uid, allowed=False)


def _lets(device: Path, account: GuestAccount) -> bool:
    """Whether it does so by its mode; its list may have an entry for the user for a moment only."""
    status = device.stat()
    of_group = stat.S_IMODE(status.st_mode) >> 3 if status.st_gid == account.gid else 0
    return any(rights & _READ_WRITE == _READ_WRITE for rights in (status.st_mode & 0o7, of_group & 0o7))


def _change(device: Path, uid: int, *, allowed: bool) -> None:
    """Add or remove the user's entry; one change at a time, since others' entries are in the same list."""
    with shared_notes():
        try:
            entries = [entry for entry in _read(device) if (entry.tag, entry.number) != (_USER, uid)]
            if allowed:
                entries.append(_Entry(_USER, uid, _READ_WRITE))
            os.setxattr(device, _XATTR, _packed(_masked(entries)))
        except OSError as error:
            raise HypervisorError(
                f"a guest's user cannot be let in: {error.strerror}",
                where=str(device),
                fix="chmod 0666 /dev/kvm, or use acceleration: tcg",
            ) from error


def _masked(entries: list[_Entry]) -> list[_Entry]:
    """With a mask that grants what the entries do; without further users and groups there is none, and the kernel
    keeps no list."""
    found = [entry for entry in entries if entry.tag != _MASK]
    if any(entry.tag in (_USER, _NAMED_GROUP) for entry in found):
        rights = 0
        for entry in found:
            rights |= entry.rights if entry.tag in (_USER, _GROUP, _NAMED_GROUP) else 0
        found.append(_Entry(_MASK, _NOBODY, rights))
    return sorted(found)


def _read(device: Path) -> list[_Entry]:
    try:
        data = os.getxattr(device, _XATTR)
    except OSError as error:
        if error.errno != errno.ENODATA:
            raise
        mode = device.stat().st_mode
        return [_Entry(tag, _NOBODY, mode >> shift & 0o7) for tag, shift in ((_OWNER, 6), (_GROUP, 3), (_OTHER, 0))]
    return [_Entry(tag, number, rights) for tag, rights, number in struct.iter_unpack("<HHI", data[4:])]


def _packed(entries: list[_Entry]) -> bytes:
    packed = (struct.pack("<HHI", entry.tag, entry.rights, entry.number) for entry in entries)
    return struct.pack("<I", _VERSION) + b"".join(packed)
