"""The guests of a lab as the reserve looks at them: what their files take on the host, and whether they stand still."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from emulator.core.ports import DomainInfo, DomainState
from emulator.core.ports.guest_accounts import GuestAccount, is_reserved
from emulator.core.units import MIB
from emulator.services.reserve import GuestSeen

CONSOLE_ALLOWED = 16 * MIB
"""Bytes of a console log that do not count as growth: twice what the console limits leave. An honest guest never has as
many; one that broke out of QEMU may write to its log by itself, at the speed of the disk."""


def seen_guests(
    infos: Iterable[DomainInfo], stopped: Callable[[Collection[int]], frozenset[int]] | None
) -> dict[str, GuestSeen]:
    """The guests by name.

    Args:
        infos: domains as libvirt has them.
        stopped: says of which users processes are stopped; None where nobody has stopped any.
    """
    uids = {info.name: _uid(info) for info in infos}
    still = stopped([uid for uid in uids.values() if uid is not None]) if stopped else frozenset[int]()
    return {
        info.name: GuestSeen(
            running=info.state is DomainState.RUNNING,
            paused=info.state is DomainState.PAUSED,
            allocated=_taken(info.live or info),
            uid=uids[info.name],
            stopped=uids[info.name] in still,
        )
        for info in infos
    }


def uids_of(guests: Iterable[GuestSeen]) -> frozenset[int]:
    """Users of these guests, as far as they have some."""
    return frozenset(guest.uid for guest in guests if guest.uid is not None)


def _uid(info: DomainInfo) -> int | None:
    """The user that this guest's QEMU runs as, if it is nobody else's: guests of earlier versions share one, and labs
    of other users run as those."""
    account = GuestAccount.of_label((info.live or info).account)
    return account.uid if account is not None and is_reserved(account.uid) else None


def _taken(info: DomainInfo) -> int:
    console = _allocated(Path(info.console_log)) if info.console_log else 0
    return sum(_allocated(disk) for disk in info.disks) + max(console - CONSOLE_ALLOWED, 0)


def _allocated(file: Path) -> int:
    try:
        return file.stat().st_blocks * 512
    except OSError:
        return 0
