"""Repair what commands go by: report a damaged journal, and rewrite a damaged GPU ledger from the labs' journals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import unquote

from emulator.apply.gpu_ownership import (
    Claim,
    GpuLedger,
    LedgerDamagedError,
    functions_key,
    mode_key,
    slice_key,
    vgpu_key,
)
from emulator.apply.journal import Journal
from emulator.apply.state import State, StateStore
from emulator.core.errors import HyperscalerError
from emulator.core.paths import Home
from emulator.core.progress import Reporter
from emulator.lab.lab_files import lab_names
from emulator.lab.open_journal import LabRecord, own_home
from emulator.lab.recovery.account_repair import repair_accounts
from emulator.lab.run import LockedRun
from emulator.plan.gpu_resources import GpuInstance, MigMode, Vgpu, VirtualFunctions, WholeGpu
from emulator.plan.model import Recorded


def repair_records(run: LockedRun) -> None:
    """Report damage in the lab's journal, and repair the ledgers that count for the lab."""
    report_damage(run.store, run.reporter)
    repair_accounts(run.env.guest_accounts, run.record, run.reporter)
    repair_ledgers(run.env.gpu_ledger, run.record, run.reporter)


def report_damage(store: StateStore, reporter: Reporter) -> None:
    """Warn of each line of the journal that cannot be trusted."""
    for damage in store.damage:
        kind = "its last line was cut off by a crash" if damage.torn else damage.why
        reporter.warn(f"{store.journal.path}:{damage.line}: {kind}; what is on the host is looked at instead")


def repair_ledgers(ledger: GpuLedger, record: LabRecord, reporter: Reporter) -> None:
    """Repair the host's ledger and that of the lab's simulated GPUs, if they are damaged.

    Objects on GPUs that no lab's journal names afterwards count as foreign, and are left alone. The damaged file is
    kept.
    """
    home, name = record.home, record.name
    _repair(ledger, lambda: _labs_of_host(ledger, home), reporter)
    _take_over(ledger, home, reporter)
    _repair(GpuLedger(record.paths.gpu / "owners.json"), lambda: {name: home}, reporter)


def _labs_of_host(ledger: GpuLedger, home: Home) -> dict[str, Home]:
    """The labs of all known homes, by their names in the host's ledger."""
    roots = {ledger.path.parent, home.root, *(Path(unquote(other)) for other in ledger.homes())}
    return {
        _owner(ledger, home, Home(root), lab): Home(root) for root in sorted(roots) for lab in lab_names(Home(root))
    }


def _owner(ledger: GpuLedger, ours: Home, home: Home, lab: str) -> str:
    """The name in the host's ledger of a lab in one of its homes."""
    if home.root == ours.root:
        return lab
    default = home.root == ledger.path.parent
    return ledger.seen(lab if default else f"{lab} in {home.id}")


def _take_over(ledger: GpuLedger, home: Home, reporter: Reporter) -> None:
    """Older versions kept a ledger in each home; its claims move into the host's ledger."""
    old = GpuLedger(home.gpu_owners)
    if old.path == ledger.path or not old.path.exists():
        return
    _repair(old, lambda: dict.fromkeys(lab_names(home), home), reporter)
    ledger.take_over(old.claims())
    old.path.unlink()


def _repair(ledger: GpuLedger, labs: Callable[[], Mapping[str, Home]], reporter: Reporter) -> None:
    """Args: labs: the labs that may own something, by their names in the ledger, with their homes."""
    try:
        ledger.claims()
    except LedgerDamagedError as damage:
        claims: dict[str, Claim] = {}
        for owner, home in labs().items():
            lab = owner.partition(" ")[0]
            try:
                state = StateStore(Journal(home.lab(lab).journal)).state
                own_home(home, lab, state)
            except HyperscalerError as error:
                reporter.warn(f"what lab {owner} has on the GPUs is not known: {error.what}")
                continue
            claims |= {key: claim for key, claim in claims_of(owner, state).items() if key not in claims}
        kept = ledger.rewrite_damaged(claims)
        if kept is not None:
            reporter.warn(
                f"{ledger.path}: {damage.what}; written anew from the labs' records, the damaged one is {kept.name}"
            )


def claims_of(lab: str, state: State) -> dict[str, Claim]:
    """The ledger's entries for everything that the lab has on GPUs by its journal."""
    found = {}
    for record in state.resources.values():
        boot = str(record.handle.get("boot", record.boot_id))
        if key := _key(record):
            found[key] = Claim(lab, boot)
    return found


def _key(record: Recorded) -> str:
    """The ledger's key of a recorded resource; empty where it has none, as for MIG mode that was on before."""
    handle = record.handle
    match record.resource:
        case GpuInstance() as item:
            return slice_key(item.pci_address, item.profile, item.start)
        case Vgpu() as item if "parent" in handle:
            return vgpu_key(item.pci_address, item.uuid, str(handle["parent"]))
        case WholeGpu() as item:
            return item.pci_address
        case MigMode() as item if handle.get("was_enabled") is False:
            return mode_key(item.pci_address)
        case VirtualFunctions() as item if handle.get("were_enabled") is False:
            return functions_key(item.pci_address)
    return ""
