"""Orphaned objects on GPUs: the lab's journal and its entries in the ledger are lost.

What is found is put on record before it is removed; what can no longer be attributed to any lab is reported.
"""

from __future__ import annotations

from collections.abc import Sequence

from emulator.apply.gpu_ownership import functions_key, mode_key, slice_key, vgpu_key
from emulator.apply.handlers.gpu.discovery import VFIO_DRIVER, gpus_with_traces
from emulator.apply.handlers.gpu.evidence import made_in_this_boot, settled_handle
from emulator.apply.handlers.gpu.host import GpuHost
from emulator.apply.state import State, StateStore
from emulator.core.errors import HyperscalerError
from emulator.core.progress import Reporter
from emulator.gpu.ports import VgpuFramework
from emulator.host.gpus import NVIDIA_VENDOR
from emulator.lab.environment import Environment, host_gpus
from emulator.lab.lab import Lab
from emulator.plan.gpu_resources import GpuInstance, Vgpu, WholeGpu
from emulator.plan.model import Action, Plan, Recorded
from emulator.plan.resources import Resource

LOST_GPUS_FACT = "lost-boards"
"""PCI addresses, with blanks between them, of GPUs that had something of the lab when its record was lost."""


def has_gpus(env: Environment) -> bool:
    """Whether the host has GPUs at all, without asking a driver."""
    return bool(host_gpus(env).pci.devices(vendor=NVIDIA_VENDOR))


def record_found(lab: Lab, plan: Plan, store: StateStore) -> None:
    """Record what the plan has found on GPUs and neither the journal nor the ledger knows, before anything changes.

    Domains and vGPUs, by which it was found, are removed first: a run that is cut off then would leave the rest behind.
    """
    if lab.gpus is None:
        return
    gpus, recorded = lab.gpus(), store.state.resources
    with gpus.ledger.layout():
        owners = gpus.ledger.read()
        records = [(change, recorded.get(change.resource.id)) for change in plan.changes]
        unclaimed = [
            (change, record, key)
            for change, record in records
            if (key := _key(change.resource, record)) and key not in owners
        ]
        found = [change for change, record, _ in unclaimed if record is None and change.action in _THERE]
        lost = {change.resource.pci_address for change in found if isinstance(change.resource, GpuInstance)}
        ours = {record.handle.get("parent") for record in recorded.values() if isinstance(record.resource, Vgpu)}
        lost |= gpus_with_traces(gpus, [item for item in lab.passed() if item.address not in ours])
        known = set(store.state.facts.get(LOST_GPUS_FACT, "").split())
        if gpus.real and lost - known:  # simulated GPUs go with the lab's directory
            store.fact(LOST_GPUS_FACT, " ".join(sorted(lost | known)))
        for change, record, key in unclaimed:
            if change.action is Action.DELETE and (record is None or _made(gpus, record)):
                gpus.ledger.claim(key, lab.name)


_THERE = (Action.DELETE, Action.ADOPT)


def _key(resource: Resource, record: Recorded | None) -> str:
    """The ledger's key of a slice, a recorded vGPU or a whole GPU; empty for anything else."""
    match resource:
        case GpuInstance():
            return slice_key(resource.pci_address, resource.profile, resource.start)
        case WholeGpu():
            return resource.pci_address
        case Vgpu() if record is not None and "parent" in record.handle:
            return vgpu_key(resource.pci_address, resource.uuid, str(record.handle["parent"]))
    return ""


def _made(gpus: GpuHost, record: Recorded) -> bool:
    """Whether a slice or vGPU is the lab's by its record; that no longer counts once a delete of it has begun."""
    return isinstance(record.resource, GpuInstance | Vgpu) and made_in_this_boot(gpus, settled_handle(record))


def left_on_gpus(lab: Lab, state: State, reporter: Reporter) -> tuple[str, ...]:
    """What is left on GPUs and may have been the lab's, as commands that remove it; warns of each GPU.

    Only the ledger knew whether MIG mode and virtual functions were on before the lab was made.
    """
    if lab.gpus is None:
        return ()
    commands: list[str] = []
    for gpu in state.facts.get(LOST_GPUS_FACT, "").split():
        if found := _left_on(lab.gpus(), gpu):
            reporter.warn(
                f"GPU {gpu} still has {', '.join(found)}, and without the lab's records it cannot be known "
                f"whether that was so before; if not: {'; '.join(found.values())}"
            )
            commands += found.values()
    return tuple(commands)


def _left_on(gpus: GpuHost, gpu: str) -> dict[str, str]:
    """What is on the GPU and in no ledger, each with the command that removes it, in the order of removal."""
    owners = gpus.ledger.read()
    found: dict[str, str] = {}
    device = gpus.pci.device(gpu)
    if gpus.pci.framework(gpu) is VgpuFramework.VENDOR_VFIO:
        claimed = {key.rpartition("/")[2] for key in owners if "/vgpu/" in key}
        for parent in gpus.vgpus(VgpuFramework.VENDOR_VFIO).parents(gpu):
            if parent.devices and parent.address not in claimed:
                file = f"/sys/bus/pci/devices/{parent.address}/nvidia/current_vgpu_type"
                found[f"a vGPU on {parent.address}"] = f"echo 0 > {file}"
    away = device is None or device.driver == VFIO_DRIVER  # NVML does not see it then
    mode = None if away else gpus.nvml.mig_mode(gpu)
    on = mode is not None and mode.current
    for item in gpus.nvml.instances(gpu) if on else ():
        if slice_key(gpu, item.profile, item.placement.start) not in owners:
            command = f"nvidia-smi mig -i {gpu} -dgi -gi {item.gi_id}"
            found[f"{item.profile} at slice {item.placement.start}"] = command
    if device is not None and device.virtfns and functions_key(gpu) not in owners:
        found["virtual functions"] = f"/usr/lib/nvidia/sriov-manage -d {gpu}"
    if on and mode_key(gpu) not in owners:
        found["MIG mode on"] = f"nvidia-smi -i {gpu} -mig 0"
    return found


def what_may_be_left(name: str, commands: Sequence[str]) -> HyperscalerError:
    """The error for a lab that is gone, whose exit code must not say that the host is as it was before."""
    return HyperscalerError(
        f"lab {name} is gone, but its record was lost, and something of it may be left on the GPUs",
        where=name,
        fix=f"check whether it is needed (hyperscaler gpu discover); if not: {'; '.join(commands)}",
    )
