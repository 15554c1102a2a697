"""Slices that changed hands because a driver put vGPUs where it liked.

Whoever makes a vGPU names its type and function; the driver takes any free GPU instance of the profile. With two labs
(or two nodes of one) at work on a board at once, a vGPU can so end up on a slice that was cut for another. As many
slices as vGPUs are there all the same, so whoever goes takes a free slice of the same profile away in place of its
own, and leaves that to the one whose vGPU sits on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from emulator.apply.ledger import slice_key, slice_of
from emulator.gpu.model import Placement
from emulator.gpu_errors import GpuBusyError, GpuProcessError
from emulator.plan.gpu_resources import GpuInstance

if TYPE_CHECKING:
    from emulator.apply.handlers.gpu_carve import GpuHost


def place_on_board(gpus: GpuHost, lab: str, resource: GpuInstance) -> Placement:
    """Where the lab's slice lies: as on its record, or where it got another in exchange."""
    key = slice_key(resource.pci_address, resource.profile, resource.start)
    where = slice_of(gpus.ledger.place_of(lab, key))
    return Placement(where[2], resource.size) if where is not None else resource.placement


def destroy_or_exchange(
    gpus: GpuHost, lab: str, resource: GpuInstance, start: int, destroy: Callable[[int], bool]
) -> bool:
    """Destroy the lab's slice at `start`; where a vGPU of others sits on it, a free slice of theirs instead.

    True: it is gone, and the lab's claim on it can go, too. False: it stays and belongs to others now.

    The ledger changes after the board, so that a run that was cut off in between finds a claim without a slice, and
    goes on with that.

    Args:
        destroy: destroys the slice of the same profile at a start.

    Raises:
        GpuBusyError: it is held by something else, or no slice can go in its place.
    """
    try:
        destroy(start)
        return True
    except GpuProcessError:
        raise
    except GpuBusyError:
        key = slice_key(resource.pci_address, resource.profile, start)
        gone = _taken_instead(gpus, resource, key, destroy)
        if gone is None:
            raise
        gpus.ledger.exchange(key, lab, gone)
        return False


def _taken_instead(gpus: GpuHost, resource: GpuInstance, key: str, destroy: Callable[[int], bool]) -> str | None:
    """The ledger's key of a slice of the profile that is no more; None where all are in use."""
    others = {
        name: place[2]
        for name in gpus.ledger.in_effect()
        if name != key and (place := slice_of(name)) and place[:2] == (resource.pci_address, resource.profile)
    }
    there = {item.placement.start for item in gpus.nvml.instances(resource.pci_address)}
    for name in sorted(others, key=lambda name: (others[name] in there, others[name])):
        try:
            if others[name] in there:
                destroy(others[name])
        except GpuBusyError:
            continue
        return name
    return None
