"""A damaged GPU ledger is written anew from the records of the labs."""

from __future__ import annotations

from pathlib import Path

from emulator.app.files import lab_names
from emulator.app.own_record import open_record
from emulator.app.world import World
from emulator.apply.ledger import Claim, GpuLedger, LedgerDamagedError, functions_key, mode_key, slice_key, vgpu_key
from emulator.apply.state import State
from emulator.errors import HyperscalerError
from emulator.plan.gpu_resources import GpuInstance, MigMode, Vgpu, VirtualFunctions, WholeGpu
from emulator.plan.model import Recorded
from emulator.progress import Reporter


def mend_ledgers(world: World, name: str, reporter: Reporter) -> None:
    """Mend the host's ledger and that of the lab's simulated boards, if they are damaged.

    What no lab's record names afterwards counts as made by others, and is left alone. The damaged file is kept.
    """
    _mend(world, world.home.gpu_owners, lab_names(world.home), reporter)
    _mend(world, world.home.lab(name).gpu / "owners.json", [name], reporter)


def _mend(world: World, path: Path, labs: list[str], reporter: Reporter) -> None:
    ledger = GpuLedger(path)
    try:
        ledger.claims()
    except LedgerDamagedError as damage:
        claims: dict[str, Claim] = {}
        for lab in labs:
            try:
                state = open_record(world, lab)[1].state
            except HyperscalerError as error:
                reporter.warn(f"what lab {lab} has on the boards is not known: {error.what}")
                continue
            claims |= {key: claim for key, claim in claims_of(lab, state).items() if key not in claims}
        kept = ledger.rewrite_damaged(claims)
        if kept is not None:
            reporter.warn(f"{path}: {damage.what}; written anew from the labs' records, the damaged one is {kept.name}")


def claims_of(lab: str, state: State) -> dict[str, Claim]:
    """What the lab's record says that it has on boards, as the ledger would have it."""
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
