"""A damaged GPU ledger is written anew from the records of the labs."""

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
from emulator.lab.environment import Environment
from emulator.lab.lab_files import lab_names
from emulator.lab.open_journal import own_home
from emulator.plan.gpu_resources import GpuInstance, MigMode, Vgpu, VirtualFunctions, WholeGpu
from emulator.plan.model import Recorded


def mend_ledgers(env: Environment, name: str, reporter: Reporter) -> None:
    """Mend the host's ledger and that of the lab's simulated GPUs, if they are damaged.

    What no lab's record names afterwards counts as made by others, and is left alone. The damaged file is kept.
    """
    ledger = env.gpu_ledger
    _mend(ledger, lambda: _labs_of_host(env), reporter)
    _take_over(env, reporter)
    _mend(GpuLedger(env.home.lab(name).gpu / "owners.json"), lambda: {name: env.home}, reporter)


def _labs_of_host(env: Environment) -> dict[str, Home]:
    """The labs of all homes that are known, by what the host's ledger calls them."""
    ledger = env.gpu_ledger
    roots = {ledger.path.parent, env.home.root, *(Path(unquote(home)) for home in ledger.homes())}
    return {_owner(env, Home(root), lab): Home(root) for root in sorted(roots) for lab in lab_names(Home(root))}


def _owner(env: Environment, home: Home, lab: str) -> str:
    """What the host's ledger calls a lab of one of its homes."""
    if home.root == env.home.root:
        return lab
    default = home.root == env.gpu_ledger.path.parent
    return env.gpu_ledger.seen(lab if default else f"{lab} in {home.id}")


def _take_over(env: Environment, reporter: Reporter) -> None:
    """Older versions kept a ledger in each home; the claims of this one's go into that of the host."""
    old, ledger = GpuLedger(env.home.gpu_owners), env.gpu_ledger
    if old.path == ledger.path or not old.path.exists():
        return
    _mend(old, lambda: dict.fromkeys(lab_names(env.home), env.home), reporter)
    ledger.take_over(old.claims())
    old.path.unlink()


def _mend(ledger: GpuLedger, labs: Callable[[], Mapping[str, Home]], reporter: Reporter) -> None:
    """`labs` are those that may have something, by what the ledger calls them, with their homes."""
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
    """What the lab's record says that it has on GPUs, as the ledger would have it."""
    found = {}
    for record in state.resources.values():
        boot = str(record.handle.get("boot", record.boot_id))
        if key := _key(record):
            found[key] = Claim(lab, boot)
    return found


def _key(record: Recorded) -> str:
    """The ledger's key of a recorded thing; empty where it has none, as for MIG mode that was on before."""
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
