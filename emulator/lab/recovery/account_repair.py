"""Enter accounts of guests that the host's list has lost, from the labs' journals."""

from __future__ import annotations

from collections.abc import Mapping

from emulator.apply.domain_drift import ACCOUNT
from emulator.apply.guest_accounts.ledger import AccountLedger, AccountsDamagedError
from emulator.apply.journal import Journal
from emulator.apply.state import State, StateStore
from emulator.core.errors import HyperscalerError
from emulator.core.paths import Home
from emulator.core.ports.guest_accounts import GuestAccount, GuestAccounts
from emulator.core.progress import Reporter
from emulator.lab.lab_files import lab_names
from emulator.lab.open_journal import LabRecord, own_home
from emulator.plan.resources import Domain


def repair_accounts(accounts: GuestAccounts, record: LabRecord, reporter: Reporter) -> None:
    """The list of accounts has those of this lab afterwards; a damaged one is set aside, and has those of all labs."""
    if not isinstance(accounts, AccountLedger):
        return
    try:
        accounts.restore(record.name, accounts_of(record.state))
    except AccountsDamagedError as damage:
        homes = {record.home, Home(accounts.path.parent), *map(Home, accounts.homes())}
        kept = accounts.set_aside_damaged()
        for home in sorted(homes, key=lambda each: each.root):
            for lab in lab_names(home):
                _restore(accounts, home, lab, reporter)
        if kept is not None:
            reporter.warn(f"{accounts.path}: {damage.what}; written anew from the labs' records; it is now {kept.name}")


def _restore(accounts: AccountLedger, home: Home, lab: str, reporter: Reporter) -> None:
    try:
        state = StateStore(Journal(home.lab(lab).journal)).state
        own_home(home, lab, state)
    except HyperscalerError as error:
        reporter.warn(f"the accounts of the guests of lab {lab} are not known: {error.what}")
        return
    accounts.restore(lab, accounts_of(state), home=home.id)


def accounts_of(state: State) -> Mapping[str, GuestAccount]:
    """The accounts that a lab's domains were defined for, by node."""
    found = {}
    for item in state.resources.values():
        account = GuestAccount.of_label(str(item.handle.get(ACCOUNT, "")))
        if isinstance(item.resource, Domain) and account is not None:
            found[item.resource.node] = account
    return found
