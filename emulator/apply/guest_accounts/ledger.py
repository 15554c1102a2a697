"""Who has which account number: one file for each host, written before an account is used.

Without it two labs could get the same number, and a guest that broke out of QEMU would reach the other's disks and
memory. An entry is found again by lab and node, so that a command that died between the entry and its use is simply
repeated. It is struck out when the lab is gone and nothing of the account is left; else the number is retired.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from emulator.apply.ledger_file import found_in, is_newer, is_whole, move_aside, read_ledger, write_ledger
from emulator.apply.lock import exclusive_lock, host_locks
from emulator.core.errors import StateError
from emulator.core.fs import remove_unfinished, sync
from emulator.core.paths import Home
from emulator.core.ports.guest_accounts import AccountNumbers, GuestAccount, is_reserved

VERSION = 1
_SECONDS = 120.0
"""To wait for another process that writes the file: it may look through /tmp for files of a released account."""

_WHOLE_LAB = ""
"""Stands for the node in the entry of the lab's group."""


@dataclass(frozen=True, slots=True)
class Owner:
    """`home` is the id of the lab's home; `node` is empty for the lab's group."""

    home: str
    lab: str
    node: str = _WHOLE_LAB


@dataclass(frozen=True, slots=True)
class Entries:
    """`retired`: numbers that nobody gets because something on the host still belongs to them, and what that is."""

    owners: Mapping[Owner, int] = field(default_factory=dict)
    retired: Mapping[int, str] = field(default_factory=dict)

    @property
    def held(self) -> frozenset[int]:
        return frozenset((*self.owners.values(), *self.retired))


class AccountsDamagedError(StateError):
    """The file's content cannot be trusted; `emulator.lab.recovery.account_repair` writes it anew."""


class AccountLedger:
    """`GuestAccounts` for the labs of one home, in a file that all homes share.

    Args:
        path: the file.
        lock: held while it is read and written.
        numbers: where free numbers come from.
        home: the id of the home whose labs are asked for.
    """

    def __init__(self, path: Path, lock: Path, numbers: AccountNumbers, *, home: str) -> None:
        self._path = path
        self._lock = lock
        self._numbers = numbers
        self._home = home

    @property
    def path(self) -> Path:
        return self._path

    # ---------------------------------------------------------------- GuestAccounts
    def of_lab(self, lab: str) -> GuestAccount:
        (number,) = self._numbers_of(Owner(self._home, lab))
        return GuestAccount(number, number)

    def of_guest(self, lab: str, node: str) -> GuestAccount:
        group, user = self._numbers_of(Owner(self._home, lab), Owner(self._home, lab, node))
        return GuestAccount(user, group)

    def knows(self, lab: str) -> bool:
        return bool(self._of(self.entries(), lab))

    def release(self, lab: str) -> tuple[str, ...]:
        """See `GuestAccounts.release`. Retired numbers of which nothing is left any more become free as well."""
        if not self.knows(lab):
            return ()
        with self._locked():
            entries = self.entries()
            mine = self._of(entries, lab)
            self._numbers.end(frozenset(mine.values()))
            found = self._numbers.traces({*mine.values(), *entries.retired})
            owners = {owner: number for owner, number in entries.owners.items() if owner not in mine}
            self._write(Entries(owners, dict(found)))
        return tuple(found[number] for number in sorted(mine.values()) if number in found)

    def _of(self, entries: Entries, lab: str) -> dict[Owner, int]:
        return {owner: n for owner, n in entries.owners.items() if (owner.home, owner.lab) == (self._home, lab)}

    def _numbers_of(self, *owners: Owner) -> list[int]:
        """Their numbers; those without one get it, and it is on the disk when this returns."""
        known = self.entries().owners
        if not all(owner in known for owner in owners):
            with self._locked():
                entries = self.entries()
                known = dict(entries.owners)
                for owner in owners:
                    if owner not in known:
                        # Nothing of the owner decides about its number: a lab file chooses names of labs and nodes.
                        known[owner] = self._numbers.draw(frozenset((*known.values(), *entries.retired)))
                self._write(Entries(known, entries.retired))
        return [known[owner] for owner in owners]

    # ---------------------------------------------------------------- repair
    def restore(self, lab: str, accounts: Mapping[str, GuestAccount], *, home: str | None = None) -> None:
        """Enter accounts that the lab's record has and the file does not: it was lost, or damaged.

        A number that is retired or another's by now is left out, and the guest gets a new one at its next start.

        Args:
            accounts: by node.
            home: the id of the lab's home; by default that of this ledger.
        """
        home = self._home if home is None else home
        wanted = {Owner(home, lab, node): account.uid for node, account in accounts.items()}
        wanted |= {Owner(home, lab): account.gid for account in accounts.values()}
        wanted = {owner: number for owner, number in wanted.items() if is_reserved(number)}
        if wanted.keys() <= self.entries().owners.keys():
            return
        with self._locked():
            entries = self.entries()
            known = dict(entries.owners)
            for owner, number in wanted.items():
                if owner not in known and number not in {*known.values(), *entries.retired}:
                    known[owner] = number
            self._write(Entries(known, entries.retired))

    def set_aside_damaged(self) -> Path | None:
        """Move a damaged file out of the way; returns where it is now. None if it is not, or no longer, damaged."""
        with self._locked():
            try:
                self.entries()
            except AccountsDamagedError:
                kept = move_aside(self._path)
                self._write(Entries())
                return kept
        return None

    def homes(self) -> tuple[Path, ...]:
        """The homes that the file names, however damaged it is."""
        return tuple(Path(unquote(home)) for home in found_in(self._path, r'"home": "(/[^"\s]*)"'))

    # ---------------------------------------------------------------- the file
    def entries(self) -> Entries:
        """All entries.

        Raises:
            AccountsDamagedError: the content cannot be trusted.
            StateError: the file is of a newer version or cannot be read; it is never overwritten then.
        """
        try:
            data = read_ledger(self._path)
        except FileNotFoundError:
            return Entries()
        except ValueError as error:
            raise self._damaged("cannot be parsed") from error
        version = data.get("version") if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise self._damaged("is no list of accounts")
        if is_newer(data, VERSION):
            raise StateError(
                f"the list of guests' accounts is of format {version}, and this version understands {VERSION}",
                where=str(self._path),
                fix="use the version of hyperscaler that wrote it, or a newer one",
            )
        if not is_whole(data):
            raise self._damaged("its checksum differs")
        return self._parsed(data)

    def _parsed(self, data: Mapping[str, Any]) -> Entries:
        try:
            owners = {Owner(str(e["home"]), str(e["lab"]), str(e["node"])): e["number"] for e in data["owners"]}
            retired = {int(number): str(why) for number, why in data["retired"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._damaged("is no list of accounts") from error
        numbers = [*owners.values(), *retired]
        # Whatever happened to the file: nobody becomes root by it, and no two guests the same user.
        if not all(type(number) is int and is_reserved(number) for number in numbers):
            raise self._damaged("has numbers that are not for guests")
        if len(set(numbers)) != len(data["owners"]) + len(retired):
            raise self._damaged("gives one number to several guests")
        return Entries(owners, retired)

    def _damaged(self, why: str) -> AccountsDamagedError:
        fix = "the next provision or destroy of a lab writes it anew from the labs' records"
        return AccountsDamagedError(f"the list of guests' accounts is damaged: {why}", where=str(self._path), fix=fix)

    def _write(self, entries: Entries) -> None:
        if not entries.held:
            self._remove()
            return
        owners: Sequence[Mapping[str, object]] = [
            {"home": owner.home, "lab": owner.lab, "node": owner.node, "number": number}
            for owner, number in sorted(entries.owners.items(), key=lambda item: item[1])
        ]
        data: dict[str, object] = {
            "version": VERSION,
            "owners": owners,
            "retired": {str(number): why for number, why in sorted(entries.retired.items())},
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_ledger(self._path, data)

    def _remove(self) -> None:
        try:
            remove_unfinished(self._path)
            self._path.unlink()
            sync(self._path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateError(f"cannot be removed: {error.strerror}", where=str(self._path)) from error

    def _locked(self) -> AbstractContextManager[None]:
        return exclusive_lock(self._lock, purpose="accounts of guests", wait_seconds=_SECONDS)


class NoAccounts:
    """`GuestAccounts` of a user other than root, who cannot give files away: QEMU runs as that user."""

    def of_lab(self, lab: str) -> GuestAccount | None:
        del lab
        return None

    def of_guest(self, lab: str, node: str) -> GuestAccount | None:
        del lab, node
        return None

    def knows(self, lab: str) -> bool:
        del lab
        return False

    def release(self, lab: str) -> tuple[str, ...]:
        del lab
        return ()


def host_accounts(home: Home, numbers: AccountNumbers) -> AccountLedger | NoAccounts:
    """Those of this host: one file for all of root's homes, in root's default home, which outlives a reboot."""
    if os.geteuid() != 0:
        return NoAccounts()
    return AccountLedger(Home.system().guest_accounts, host_locks(home) / "guest-accounts.lock", numbers, home=home.id)
