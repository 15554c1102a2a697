"""The files of a lab's snapshots. They lie among its disks, which is where its QEMUs may read.

disks/snapshots/operation.json        what a command is about to do with one; absent most of the time
disks/snapshots/NAME/manifest.json    its record: without it the rest are remains, or layers that others stand on
disks/snapshots/NAME/draft.json       the same, while it is made
disks/snapshots/NAME/NODE.qcow2       the frozen disk; the node's present one is an overlay on it
disks/snapshots/NAME/NODE.ram         the saved state of the guest
secrets/snapshots/NAME                the lab's private key as it was, to get into guests of that time
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from emulator.apply.executor import os_errors_translated
from emulator.apply.handlers.disk_layers import layers_under
from emulator.core.errors import DamagedDiskError, UsageError
from emulator.core.fs import private_directory, remove_tree, sync, write_private
from emulator.core.paths import LabPaths
from emulator.core.ports import DiskTool
from emulator.lab.snapshots.manifest import (
    Manifest,
    Operation,
    is_name,
    parse_manifest,
    parse_operation,
    render_manifest,
    render_operation,
)

_MANIFEST, _DRAFT = "manifest.json", "draft.json"
_DISK, _RAM = ".qcow2", ".ram"


class SnapshotStore:
    """The snapshots of the lab whose directory is `paths`. Writers hold the lab's lock."""

    def __init__(self, paths: LabPaths) -> None:
        self._paths = paths
        self.root = paths.snapshots

    def directory(self, name: str) -> Path:
        return self.root / name

    def disk(self, node: str) -> Path:
        """The node's present disk."""
        return self._paths.disks / f"{node}{_DISK}"

    def frozen(self, name: str, node: str) -> Path:
        return self.directory(name) / f"{node}{_DISK}"

    def ram(self, name: str, node: str) -> Path:
        return self.directory(name) / f"{node}{_RAM}"

    def key(self, name: str) -> Path:
        """The lab's private key at the time of the snapshot."""
        return self._paths.secrets / "snapshots" / name

    # ---------------------------------------------------------------- records
    def names(self) -> tuple[str, ...]:
        """Of the snapshots that are whole."""
        return tuple(name for name in self._directories() if (self.directory(name) / _MANIFEST).is_file())

    def _directories(self) -> tuple[str, ...]:
        if not self._is_there():
            return ()
        found = (path for path in self.root.iterdir() if path.is_dir() and not path.is_symlink())
        return tuple(sorted(path.name for path in found if is_name(path.name)))

    def _is_there(self) -> bool:
        """A link in the place of the directory was planted, and nothing is behind it."""
        return self.root.is_dir() and not self.root.is_symlink()

    def manifest(self, name: str) -> Manifest:
        """Raises: UsageError when there is no such snapshot; StateError when its record is damaged."""
        path = self.directory(name) / _MANIFEST
        if not is_name(name) or not path.is_file():
            known = ", ".join(self.names()) or "there are none"
            raise UsageError(f"the lab has no snapshot {name}", fix=f"snapshots of this lab: {known}")
        return parse_manifest(path.read_bytes(), str(path))

    def draft(self, name: str) -> Manifest:
        path = self.directory(name) / _DRAFT
        return parse_manifest(path.read_bytes(), str(path))

    def begin(self, manifest: Manifest) -> None:
        """Make the directory of a snapshot, with what is known of it so far, and keep the key of that time."""
        private_directory(self.root)
        private_directory(self.directory(manifest.name))
        private_directory(self._paths.secrets)
        write_private(self.key(manifest.name), self._paths.ssh_key.read_bytes())
        write_private(self.directory(manifest.name) / _DRAFT, render_manifest(manifest))

    def publish(self, manifest: Manifest) -> None:
        """From here on it is a snapshot."""
        write_private(self.directory(manifest.name) / _MANIFEST, render_manifest(manifest))
        (self.directory(manifest.name) / _DRAFT).unlink(missing_ok=True)

    def unpublish(self, name: str) -> None:
        """From here on it is none; `collect` takes away what is left of it."""
        (self.directory(name) / _MANIFEST).unlink(missing_ok=True)
        sync(self.directory(name))

    # ---------------------------------------------------------------- what a command is about to do
    @property
    def _operation(self) -> Path:
        return self.root / "operation.json"

    def operation(self) -> Operation | None:
        """Raises: StateError when the record is damaged."""
        if self.root.is_symlink() or not self._operation.is_file():
            return None
        return parse_operation(self._operation.read_bytes(), str(self._operation))

    def record(self, operation: Operation) -> None:
        """On the disk when this returns."""
        private_directory(self.root)
        write_private(self._operation, render_operation(operation))

    def clear(self) -> None:
        self._operation.unlink(missing_ok=True)
        if self._is_there():
            sync(self.root)

    # ---------------------------------------------------------------- layers
    def layers(self, disks: DiskTool, disk: Path) -> Iterator[Path]:
        """The layers of snapshots under a disk, the uppermost first."""
        return layers_under(disks, disk, self.root)

    def kept_base(self, disks: DiskTool, disk: Path) -> Path | None:
        """What a disk has to stand on: the uppermost layer of a snapshot that is whole, else its golden image."""
        names = self.names()
        base = disks.overlay_base(disk)
        for layer in self.layers(disks, disk):
            if layer.parent.name in names:
                return layer
            base = disks.overlay_base(layer)
        return base

    def has_remains(self) -> bool:
        """Whether there is something of snapshots that are not whole, or a directory without any."""
        if not self._is_there():
            return False
        return set(self._directories()) != set(self.names()) or not any(self.root.iterdir())

    def collect(self, disks: DiskTool) -> None:
        """Remove what belongs to no snapshot and serves no disk. Not to be called while an operation is on record."""
        with os_errors_translated("snapshots"):
            self._collect(disks)

    def _collect(self, disks: DiskTool) -> None:
        whole = set(self.names())
        tops = [*self._paths.disks.glob(f"*{_DISK}")]
        tops += [path for name in whole for path in self.directory(name).glob(f"*{_DISK}")]
        needed = {layer for top in tops for layer in self._readable_layers(disks, top)}
        for name in self._directories():
            if name in whole:
                (self.directory(name) / _DRAFT).unlink(missing_ok=True)
                continue
            self.key(name).unlink(missing_ok=True)
            for path in self.directory(name).iterdir():
                if path not in needed:
                    remove_tree(path)
            if not any(self.directory(name).iterdir()):
                self.directory(name).rmdir()
        if self._is_there() and not any(self.root.iterdir()):
            self.root.rmdir()

    def _readable_layers(self, disks: DiskTool, top: Path) -> tuple[Path, ...]:
        try:
            return tuple(self.layers(disks, top))
        except DamagedDiskError:  # it is lost, and must not keep the space of others for ever
            return ()

    def space(self, name: str) -> int:
        """Bytes that the files of a snapshot take up."""
        directory = self.directory(name)
        return sum(path.lstat().st_blocks * 512 for path in directory.iterdir()) if directory.is_dir() else 0

    def free_bytes(self) -> int:
        """Bytes that are free where the disks are."""
        return shutil.disk_usage(self._paths.disks).free


def used_bytes(path: Path) -> int:
    """Bytes that a file takes up; 0 where there is none."""
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
