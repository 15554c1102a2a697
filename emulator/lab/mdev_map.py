"""Which node holds which part of which GPU: from a lab's record to `output/mdev_map.json`."""

from __future__ import annotations

import json

from emulator.apply.state import State
from emulator.core.errors import StateError
from emulator.core.fs import write_private
from emulator.core.paths import LabPaths
from emulator.guests.inventory.mdev_map import HeldGpu, HeldSlice, mdev_map
from emulator.plan.gpu_resources import GpuInstance, Vgpu, WholeGpu

FILE_NAME = "mdev_map.json"


def held_devices(state: State) -> tuple[HeldSlice | HeldGpu, ...]:
    """Slices and whole GPUs that the nodes of a lab hold, as far as they are made and recorded."""
    made = [record for record in state.resources.values() if not record.open_action]
    slices = {
        (item.pci_address, item.profile, item.name): (item, record.handle)
        for record in made
        if isinstance(item := record.resource, GpuInstance)
    }
    found: list[HeldSlice | HeldGpu] = []
    for record in made:
        item, handle = record.resource, record.handle
        if isinstance(item, WholeGpu):
            functions = tuple(handle.get("endpoints", ()))
            found.append(HeldGpu(item.node, item.device, item.pci_address, functions))
        elif isinstance(item, Vgpu) and (key := (item.pci_address, item.profile, item.name)) in slices:
            below, instance = slices[key]
            found.append(
                HeldSlice(
                    node=item.node,
                    device=item.device,
                    pci_address=item.pci_address,
                    profile=item.profile,
                    start=below.start,
                    size=below.size,
                    gpu_instance_id=instance.get("gpu_instance_id"),
                    framework=handle["framework"],
                    function=handle["parent"],
                    vgpu_type=handle["type_name"],
                    uuid=handle.get("uuid", ""),
                )
            )
    return tuple(found)


def lab_mdev_map(paths: LabPaths, state: State) -> dict[str, object]:
    """The map as JSON data."""
    return mdev_map(paths.root.name, held_devices(state))


def write_mdev_map(paths: LabPaths, state: State) -> None:
    """Write `output/mdev_map.json` (0600, whole or not at all); without GPUs there is no file.

    Raises:
        StateError: it cannot be written.
    """
    file = paths.output / FILE_NAME
    if held_devices(state):
        write_private(file, (json.dumps(lab_mdev_map(paths, state), indent=2) + "\n").encode())
        return
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise StateError(f"cannot be removed: {error.strerror}", where=str(file)) from error
