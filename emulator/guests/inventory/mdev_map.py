"""`mdev_map.json`: which node holds which slice or GPU, for people and for other tools. Pure.

`schemas/mdev_map.schema.json` describes the file. Within a version keys are only added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

VERSION = 1


@dataclass(frozen=True, slots=True)
class HeldSlice:
    """A vGPU on a GPU instance, held by a node.

    Attributes:
        device: the GPU's id in the lab file.
        pci_address: of the GPU, such as 0000:41:00.0.
        start, size: memory slices.
        gpu_instance_id: as the driver gave it; opaque, and another one after a reboot.
        framework: `mdev` or `vendor_vfio`.
        function: the PCI function that carries the vGPU; with vendor_vfio it is the device itself.
        uuid: of the mediated device; empty with vendor_vfio.
    """

    node: str
    device: str
    pci_address: str
    profile: str
    start: int
    size: int
    gpu_instance_id: int | None
    framework: str
    function: str
    vgpu_type: str
    uuid: str


@dataclass(frozen=True, slots=True)
class HeldGpu:
    """A whole GPU, held by a node. `functions` are all PCI functions that go to the guest with it."""

    node: str
    device: str
    pci_address: str
    functions: tuple[str, ...]


def mdev_map(lab: str, held: Iterable[HeldSlice | HeldGpu]) -> dict[str, object]:
    """The file's content as JSON data; nodes and their devices in a fixed order."""
    nodes: dict[str, list[dict[str, object]]] = {}
    for item in sorted(held, key=_order):
        nodes.setdefault(item.node, []).append(_slice(item) if isinstance(item, HeldSlice) else _gpu(item))
    return {"version": VERSION, "lab": lab, "nodes": nodes}


def _order(item: HeldSlice | HeldGpu) -> tuple[str, str, int]:
    return (item.node, item.pci_address, item.start if isinstance(item, HeldSlice) else -1)


def _slice(item: HeldSlice) -> dict[str, object]:
    return {
        "kind": "vgpu",
        "device": item.device,
        "pci_address": item.pci_address,
        "profile": item.profile,
        "placement": {"start": item.start, "size": item.size},
        "gpu_instance_id": item.gpu_instance_id,
        "framework": item.framework,
        "vgpu_type": item.vgpu_type,
        "function": item.function,
        "uuid": item.uuid or None,
    }


def _gpu(item: HeldGpu) -> dict[str, object]:
    return {
        "kind": "whole",
        "device": item.device,
        "pci_address": item.pci_address,
        "framework": "vfio-pci",
        "functions": list(item.functions),
    }
