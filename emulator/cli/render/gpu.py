"""GPUs as text and as JSON."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emulator.cli.output import draws_boxes, is_terminal, say
from emulator.cli.render.tables import Table, print_rich, show
from emulator.core.errors import HyperscalerError
from emulator.core.fs import replace_file
from emulator.gpu.pictures.picture import GpuPicture
from emulator.gpu.placement.demand import Assignment
from emulator.gpu.ports import Utilisation, VgpuFramework
from emulator.host.gpu_json import gpu_record
from emulator.host.gpus import Gpu
from emulator.operations.gpu.layout import LayoutAnswer
from emulator.operations.gpu.reports import Discovery, GpuUsage

_FRAMEWORKS = {
    VgpuFramework.NONE: "none offered by the kernel",
    VgpuFramework.MDEV: "mdev",
    VgpuFramework.VENDOR_VFIO: "vendor VFIO",
}


# ---------------------------------------------------------------- discover
def discovery_json(found: Discovery) -> dict[str, Any]:
    gpus = []
    for gpu in found.gpus:
        record = gpu_record(gpu)
        seen = record["nvml"]
        if isinstance(seen, dict) and gpu.nvml is not None:
            for entry, instance in zip(seen["instances"], gpu.nvml.instances, strict=True):
                entry["lab"] = found.owner(gpu, instance)
        gpus.append({**record, "lab": found.owner(gpu)})
    return {
        "version": 1,
        "simulated": found.simulated,
        "driver_version": found.gpus[0].driver_version if found.gpus else None,
        "gpus": gpus,
        "differences": [
            {
                "device": item.device,
                "field": item.field,
                "expected": item.expected,
                "found": item.found,
                "fix": item.fix,
            }
            for item in found.differences
        ],
    }


def print_discovery(found: Discovery) -> None:
    """A table of all GPUs, then everything about each."""
    if not found.gpus:
        say("the NVIDIA driver answers, but there is no NVIDIA GPU")
        return
    if found.simulated:
        say("simulated GPUs")
    heading = ("ADDRESS", "PRODUCT", "MEMORY", "MIG", "SLICES", "VFS", "DRIVER", "HELD BY")
    show(Table(heading, [_summary(gpu) for gpu in found.gpus]))
    for gpu in found.gpus:
        say()
        say(_details(found, gpu))


def _summary(gpu: Gpu) -> tuple[str, ...]:
    seen = gpu.nvml
    return (
        gpu.pci_address,
        gpu.name,
        f"{seen.memory_total_mib} MiB" if seen else "?",
        _mig(gpu),
        str(len(seen.instances)) if seen else "?",
        str(len(gpu.vfs)),
        gpu.driver or "none",
        _count(len(_pids(gpu))),
    )


def _count(processes: int) -> str:
    return "nobody" if not processes else f"{processes} process" + ("es" if processes > 1 else "")


def _pids(gpu: Gpu) -> set[int]:
    computing = {item.pid for item in gpu.nvml.processes} if gpu.nvml else set()
    return computing | {item.pid for item in gpu.holders}


def _mig(gpu: Gpu) -> str:
    seen = gpu.nvml
    if seen is None:
        return "?"
    if seen.mig is None:
        return "not capable"
    text = "on" if seen.mig.current else "off"
    return f"{text}, {'on' if seen.mig.pending else 'off'} after a reset" if seen.mig.waits_for_reset else text


def _details(found: Discovery, gpu: Gpu) -> str:
    seen = gpu.nvml
    owner = found.owner(gpu)
    facts: list[tuple[str, str]] = [("catalogue", gpu.model.id if gpu.model else "unknown model; NVML's report counts")]
    if gpu.fault is not None:
        facts.append(("NVML", f"cannot read the GPU: {gpu.fault.reason}"))
        facts.append(("fix", gpu.fault.fix))
    elif seen is None:
        facts.append(("NVML", "does not see the GPU" + (f"; lab {owner} has it as a whole" if owner else "")))
    else:
        facts += [
            ("UUID", seen.uuid),
            ("PCI id", seen.pci_id),
            ("architecture", seen.architecture or "?"),
            ("memory", f"{seen.memory_used_mib} of {seen.memory_total_mib} MiB used"),
            ("MIG mode", _mig(gpu)),
            ("virtualisation", seen.virtualization.name.lower() if seen.virtualization is not None else "?"),
        ]
        facts += [("profile", _profile(item)) for item in seen.profiles]
        for item in seen.instances:
            lab = found.owner(gpu, item)
            whose = f"lab {lab}" if lab else "not made by hyperscaler"
            busy = ", busy" if item.busy else ""
            facts.append(("slice", f"{item.profile} at {item.placement.start}, id {item.gi_id}{busy}: {whose}"))
    facts.append(("driver", f"{gpu.driver or 'none'} (NVIDIA driver {gpu.driver_version or 'not loaded'})"))
    facts.append(("vGPU framework", _FRAMEWORKS[gpu.framework]))
    facts.append(("functions", f"{len(gpu.vfs)} virtual: {gpu.vfs[0]} to {gpu.vfs[-1]}" if gpu.vfs else "none virtual"))
    group = "none: no IOMMU, so the GPU cannot go to a guest"
    if gpu.pci is not None and gpu.pci.iommu_group is not None:
        members = ", ".join(f"{item.address} ({item.driver or 'no driver'})" for item in gpu.iommu_group)
        group = f"{gpu.pci.iommu_group}: {members}"
    facts.append(("IOMMU group", group))
    for process in seen.processes if seen else ():
        memory = f", {process.memory_mib} MiB" if process.memory_mib is not None else ""
        facts.append(("computes", f"{process.name} (pid {process.pid}{memory})"))
    facts += [("has it open", f"{item.name} (pid {item.pid}, {item.path})") for item in gpu.holders]
    lines = [f"{gpu.pci_address}  {gpu.name}"]
    lines += [f"  {name + ':':<16}{value}" for name, value in facts]
    return "\n".join(lines)


def _profile(item: Any) -> str:
    starts = ", ".join(map(str, item.starts)) if item.placements is not None else "reported to root only"
    return f"{item.name} (id {item.gi_profile_id}, {item.memory_mib} MiB, up to {item.max_instances}) at {starts}"


# ---------------------------------------------------------------- plan
def print_layout(answer: LayoutAnswer, pictures: Sequence[GpuPicture], *, ascii_only: bool) -> None:
    """The picture on stdout, in colour on a terminal; on stderr what else there is to say of it."""
    from emulator.gpu.pictures.render_text import render_text

    columns = shutil.get_terminal_size((80, 24)).columns if is_terminal(sys.stdout) else None
    drawing = render_text(pictures, ascii_only=ascii_only or not draws_boxes(sys.stdout), columns=columns)
    print_rich(drawing)
    for note in answer.notes:
        say(f"note: {note}", err=True)
    if answer.infeasible is not None:
        say("error: it does not fit", err=True)
        for reason in answer.infeasible.reasons:
            say(f"  because {reason}", err=True)
        for change in answer.infeasible.changes:
            say(f"  fix: {change}", err=True)


def write_svg(file: Path, pictures: Sequence[GpuPicture]) -> None:
    from emulator.gpu.pictures.render_svg import render_svg

    try:
        replace_file(file, render_svg(pictures).encode(), mode=0o644)
    except OSError as error:
        raise HyperscalerError(f"cannot be written: {error.strerror}", where=str(file)) from error


def layout_json(answer: LayoutAnswer) -> dict[str, Any]:
    infeasible = answer.infeasible
    return {
        "version": 1,
        "feasible": infeasible is None,
        "boards": [
            {
                "id": gpu.id,
                "model": gpu.model.id,
                "memory_slices": gpu.model.memory_slices,
                "assignments": [_assignment(item) for item in answer.placed if item.gpu == gpu.id],
            }
            for gpu in answer.gpus
        ],
        "reasons": list(infeasible.reasons) if infeasible else [],
        "changes": list(infeasible.changes) if infeasible else [],
        "unplaced": list(infeasible.unplaced) if infeasible else [],
        "notes": list(answer.notes),
    }


def _assignment(item: Assignment) -> dict[str, Any]:
    place = item.placement
    return {
        "demand": item.demand,
        "profile": item.profile,
        "start": place.start if place else None,
        "size": place.size if place else None,
        "whole": item.whole,
    }


# ---------------------------------------------------------------- top
def usage_json(gpus: Sequence[GpuUsage]) -> list[dict[str, Any]]:
    return [
        {
            "pci_address": gpu.pci_address,
            "name": gpu.name,
            **_use_json(gpu.use),
            "lab": gpu.lab,
            "node": gpu.node,
            "slices": [
                {
                    "profile": item.instance.profile,
                    "start": item.instance.placement.start,
                    "size": item.instance.placement.size,
                    "gpu_instance_id": item.instance.gi_id,
                    "lab": item.lab,
                    "node": item.node,
                    **_use_json(item.use),
                }
                for item in gpu.slices
            ],
        }
        for gpu in gpus
    ]


def _use_json(use: Utilisation | None) -> dict[str, Any]:
    return {
        "gpu_percent": use.gpu_percent if use else None,
        "memory_percent": use.memory_percent if use else None,
        "memory_used_mib": use.memory_used_mib if use else None,
        "memory_total_mib": use.memory_total_mib if use else None,
    }


def usage_table(gpus: Sequence[GpuUsage]) -> Table:
    """A row for each GPU and, indented below it, for each of its slices."""
    rows: list[tuple[str, ...]] = []
    for gpu in gpus:
        rows.append((f"{gpu.pci_address} {gpu.name}", *_use_cells(gpu.use), _holder(gpu.lab, gpu.node)))
        for item in gpu.slices:
            place = f"  {item.instance.profile} at {item.instance.placement.start}"
            rows.append((place, *_use_cells(item.use), _holder(item.lab, item.node) or "not made by hyperscaler"))
    return Table(("GPU / SLICE", "GPU", "MEMORY", "NODE"), rows)


def _use_cells(use: Utilisation | None) -> tuple[str, str]:
    """A dash where NVML gives no value: in MIG mode, and of what a guest has."""
    if use is None:
        return "-", "-"
    percent = "-" if use.gpu_percent is None else f"{use.gpu_percent} %"
    return percent, f"{use.memory_used_mib} / {use.memory_total_mib} MiB"


def _holder(lab: str | None, node: str | None) -> str:
    return f"{lab}/{node}" if lab and node else node or (f"lab {lab}" if lab else "")


# ---------------------------------------------------------------- map
def map_table(data: Mapping[str, Any]) -> Table:
    """The content of mdev_map.json."""
    rows: list[tuple[str, ...]] = []
    for node, devices in data["nodes"].items():
        for item in devices:
            start = (node, item["device"], item["pci_address"])
            if item["kind"] == "whole":
                rows.append((*start, "whole", "-", " ".join(item["functions"]), item["framework"]))
                continue
            number = "?" if item["gpu_instance_id"] is None else str(item["gpu_instance_id"])
            place = f"{item['profile']} at {item['placement']['start']}"
            device = f"{item['vgpu_type']} {item['uuid'] or item['function']}"
            rows.append((*start, place, number, device, item["framework"]))
    return Table(("NODE", "DEVICE", "GPU", "SLICE", "GI", "VGPU", "FRAMEWORK"), rows)
