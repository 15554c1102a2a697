"""The snapshots of a lab, and whether it can go back to them. Reads only; waits for no lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from emulator.core.errors import HyperscalerError, StateError
from emulator.lab.environment import Environment
from emulator.lab.lab_files import require_lab
from emulator.lab.open_journal import open_record
from emulator.lab.snapshots.manifest import Manifest, Phase
from emulator.lab.snapshots.restore import check_disks
from emulator.lab.snapshots.store import SnapshotStore


@dataclass(frozen=True, slots=True)
class SnapshotLine:
    """One snapshot. `problem` says why its record cannot be read; `whole`, where it was asked for, whether the frozen
    disk of each node has the content that was set aside."""

    name: str
    space_bytes: int
    manifest: Manifest | None = None
    problem: str = ""
    whole: Mapping[str, bool] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"name": self.name, "space_bytes": self.space_bytes, "problem": self.problem}
        if self.manifest is not None:
            manifest = self.manifest
            nodes = [
                {"name": node.name, "disk_bytes": node.disk_bytes, "ram_bytes": node.ram_bytes}
                for node in manifest.nodes
            ]
            data |= {"taken": manifest.taken, "memory": manifest.ram, "machine": manifest.machine}
            data |= {"paused_seconds": manifest.paused_seconds, "nodes": nodes}
        return data | ({"whole": dict(self.whole)} if self.whole else {})


@dataclass(frozen=True, slots=True)
class SnapshotList:
    """`remains_bytes`: of snapshots that were deleted, and whose layers still serve disks. `interrupted`: what a
    command has left half done."""

    snapshots: tuple[SnapshotLine, ...]
    remains_bytes: int = 0
    interrupted: str = ""


def list_snapshots(env: Environment, lab: str) -> SnapshotList:
    """Raises: UsageError when there is no such lab."""
    require_lab(env.home, lab)
    store = SnapshotStore(open_record(env.home, lab).paths)
    names = store.names()
    lines = tuple(_line(store, name) for name in names)
    every = sum(path.lstat().st_blocks * 512 for path in store.root.rglob("*")) if store.root.is_dir() else 0
    return SnapshotList(lines, max(0, every - sum(line.space_bytes for line in lines)), interrupted_in(store))


def interrupted_in(store: SnapshotStore) -> str:
    """What a command has left half done with a snapshot, in words; empty for nothing."""
    try:
        operation = store.operation()
    except StateError as error:
        return error.what
    if operation is None or operation.phase is Phase.PARKED:
        return ""
    return f"{operation.verb} ({operation.snapshot}) did not end: it was {operation.phase}"


def show_snapshot(env: Environment, lab: str, name: str, *, check: bool = False) -> SnapshotLine:
    """One snapshot; with `check` its disks are read whole and compared.

    Raises:
        UsageError: no such lab or snapshot.
        StateError: its record is damaged.
    """
    require_lab(env.home, lab)
    store = SnapshotStore(open_record(env.home, lab).paths)
    manifest = store.manifest(name)
    return SnapshotLine(name, store.space(name), manifest, whole=check_disks(store, manifest) if check else {})


def _line(store: SnapshotStore, name: str) -> SnapshotLine:
    try:
        return SnapshotLine(name, store.space(name), store.manifest(name))
    except HyperscalerError as error:  # one must not hide the others
        return SnapshotLine(name, store.space(name), problem=error.what)
