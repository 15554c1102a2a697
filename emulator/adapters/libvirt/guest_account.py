"""The account that QEMU runs as, and what it must own or enter.

QEMU handles whatever a guest sends to its devices, so each guest's runs as a user of its own: a guest that breaks out
of QEMU is not root, cannot open files of secrets or of other guests, reaches no other guest's memory and writes no
golden image. libvirt's dynamic ownership is not used, because it would hand the golden images to that user as well;
instead the few files of a guest are handed over before it starts.

Guests that an older version defined run as the account that libvirt's packages make, which they share, until they are
started again.
"""

from __future__ import annotations

import os
import pwd
import stat
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

from emulator.core.errors import HostNotFitError, HypervisorError
from emulator.core.ports import DomainInfo, Hostdev, HostdevKind
from emulator.core.ports.guest_accounts import GuestAccount, is_reserved

# Debian's and Fedora's packages of libvirt create them.
_NAMES = ("libvirt-qemu", "qemu")


def guest_account() -> GuestAccount:
    """The account that libvirt's packages create for QEMU.

    Raises:
        HostNotFitError: there is none.
    """
    for name in _NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return GuestAccount(entry.pw_uid, entry.pw_gid)
    raise HostNotFitError(
        f"this host has no account for QEMU ({' or '.join(_NAMES)})", fix="apt-get install libvirt-daemon-system"
    )


def account_of(capabilities: str) -> GuestAccount | None:
    """The account that a libvirt with this `<capabilities>` document runs QEMU as, unless a domain names another: its
    own, unless that is root.

    None where it cannot be chosen: without the DAC driver QEMU runs as the user who started libvirt.

    Raises:
        HostNotFitError: it would be root, and the host has no other account for QEMU.
    """
    labels = _dac_labels(capabilities)
    if not labels:
        return None
    accounts = (GuestAccount.of_label(label) for label in labels)
    return next((account for account in accounts if account is not None and account.uid != 0), None) or guest_account()


def account_for(capabilities: str, wanted: GuestAccount | None) -> GuestAccount | None:
    """What QEMU is to run as under that libvirt, if `wanted` is the guest's account: its user, in libvirt's own group.

    libvirt's directories let QEMU pass by that group, and nothing else: Debian's `/var/lib/libvirt/qemu` has mode 0750.
    With a lab's own libvirt it is the lab's group.

    Raises:
        HostNotFitError: as `account_of`.
    """
    shared = account_of(capabilities)
    return shared if shared is None or wanted is None else GuestAccount(wanted.uid, shared.gid)


def own_account(info: DomainInfo | None) -> GuestAccount | None:
    """The account of a domain, if no other guest has the same user: guests of earlier versions share theirs."""
    account = None if info is None else GuestAccount.of_label(info.account)
    return account if account is not None and is_reserved(account.uid) else None


def _dac_labels(capabilities: str) -> list[str]:
    try:
        root = ET.fromstring(capabilities)  # noqa: S314 - written by libvirt
    except ET.ParseError:
        return []
    models = [model for model in root.findall("host/secmodel") if model.findtext("model") == "dac"]
    return [(label.text or "").strip() for model in models for label in model.findall("baselabel")]


def admit(account: GuestAccount, directories: Iterable[Path]) -> None:
    """Let QEMU pass through directories of ours: by its group, to names that it knows; it lists none of them.

    Raises:
        HypervisorError: one of them is no directory of ours.
    """
    for directory in directories:
        descriptor = _opened(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            status = os.fstat(descriptor)
            if status.st_uid != os.geteuid():
                raise HypervisorError("not a directory of our own", where=str(directory), fix="remove it and try again")
            if status.st_gid != account.gid:
                os.fchown(descriptor, -1, account.gid)
            os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o700 | 0o010)
        finally:
            os.close(descriptor)


def hand_over(account: GuestAccount, *, disks: Iterable[Path], console_log: Path | None) -> None:
    """Give a guest's disks and its console log to QEMU's account; the log is created, since QEMU may not.

    Raises:
        HypervisorError: one of them cannot be handed over.
    """
    for disk in disks:
        _give(account, disk, os.O_RDONLY)
    if console_log is not None:
        _give(account, console_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _give(account: GuestAccount, path: Path, flags: int) -> None:
    descriptor = _opened(path, flags)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise HypervisorError("not a file of a guest's own", where=str(path), fix="move it away and try again")
        if (status.st_uid, status.st_gid) != (account.uid, account.gid):
            os.fchown(descriptor, account.uid, account.gid)
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _opened(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise HypervisorError(f"cannot be opened for QEMU: {error.strerror}", where=str(path)) from error


def vfio_nodes(hostdevs: Iterable[Hostdev], sys: Path = Path("/sys"), dev: Path = Path("/dev")) -> tuple[Path, ...]:
    """The device nodes through which QEMU reaches devices of the host; those that are not there yet are left out."""
    found = []
    for hostdev in hostdevs:
        bus = "mdev" if hostdev.kind is HostdevKind.MDEV else "pci"
        group = sys / "bus" / bus / "devices" / hostdev.address / "iommu_group"
        node = dev / "vfio" / group.resolve().name
        if group.is_symlink() and node.exists():
            found.append(node)
    return tuple(dict.fromkeys(found))


def open_devices(account: GuestAccount, nodes: Iterable[Path]) -> None:
    """Let QEMU open VFIO groups. The kernel removes the nodes, and the permission with them, when the devices leave.

    Raises:
        HypervisorError: the node cannot be changed.
    """
    for node in nodes:
        try:
            os.chown(node, account.uid, account.gid, follow_symlinks=False)
        except OSError as error:
            raise HypervisorError(f"cannot be opened for QEMU: {error.strerror}", where=str(node)) from error
