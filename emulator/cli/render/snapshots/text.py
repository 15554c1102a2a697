"""Snapshots as text."""

from __future__ import annotations

import time
from collections.abc import Iterator

from emulator.cli.render.tables import Table, plain
from emulator.core.units import human_bytes, human_duration
from emulator.lab.snapshots.manifest import Manifest
from emulator.operations.snapshots.listing import SnapshotLine, SnapshotList


def size_text(size: int) -> str:
    return human_bytes(size)


def age_text(manifest: Manifest) -> str:
    """The snapshot, and when it was made, in local time."""
    return f"snapshot {manifest.name} of {_when(manifest)}"


def made_text(manifest: Manifest) -> str:
    kind = "memory and disks" if manifest.ram else "disks"
    still = "stood still" if manifest.ram else "were off"
    return (
        f"{manifest.lab}: snapshot {manifest.name} has {kind} of {len(manifest.nodes)} machines, which {still} for"
        f" {human_duration(manifest.paused_seconds)}; it takes {human_bytes(manifest.space_bytes)}"
    )


def snapshots_table(found: SnapshotList) -> Table:
    """A row for each snapshot."""
    return Table(("NAME", "TAKEN", "WITH", "SPACE", "NODES"), [_row(line) for line in found.snapshots])


def _row(line: SnapshotLine) -> tuple[str, ...]:
    if line.manifest is None:
        return (line.name, line.problem, "", human_bytes(line.space_bytes), "")
    kind = "memory" if line.manifest.ram else "disks"
    return (line.name, _when(line.manifest), kind, human_bytes(line.space_bytes), str(len(line.manifest.nodes)))


def list_text(lab: str, found: SnapshotList) -> Iterator[str]:
    """What there is to say besides the table."""
    if not found.snapshots:
        yield f"{lab} has no snapshots; hyperscaler snapshot create {lab} NAME makes one"
    if found.remains_bytes >= 1 << 20:
        yield f"{human_bytes(found.remains_bytes)} more are layers of deleted snapshots that disks stand on"
    if found.interrupted:
        yield f"{found.interrupted}; the next command with snapshots, or hyperscaler provision, brings it to an end"


def snapshot_text(line: SnapshotLine) -> Iterator[str]:
    manifest = line.manifest
    if manifest is None:
        yield f"{line.name}: {line.problem}"
        return
    yield f"{age_text(manifest)}: {'memory and disks' if manifest.ram else 'disks'}, {human_bytes(line.space_bytes)}"
    yield f"made on {manifest.machine}"
    rows = [
        (
            node.name,
            f"disk {human_bytes(node.disk_bytes)}",
            f"memory {human_bytes(node.ram_bytes)}" if manifest.ram else "",
            _whole(line, node.name),
        )
        for node in manifest.nodes
    ]
    yield plain(Table((), rows, indent=2))


def _whole(line: SnapshotLine, node: str) -> str:
    if node not in line.whole:
        return ""
    return "disk as it was set aside" if line.whole[node] else "disk DAMAGED"


def _when(manifest: Manifest) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(manifest.taken))
