"""What lies between a node's disk and its golden image: the frozen disks of snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emulator.core.ports import DiskTool


def layers_under(disks: DiskTool, disk: Path, snapshots: Path) -> Iterator[Path]:
    """The frozen disks under `disk`, the uppermost first.

    QEMU's account can write the headers of a guest's disks, so that they may name any file, or each other in a circle.
    Nothing is followed but what lies in the lab's directory of snapshots, and nothing twice.

    Raises:
        DamagedDiskError: one of them is not a usable disk.
    """
    seen: set[Path] = set()
    base = disks.overlay_base(disk)
    while base is not None and base.parent.parent == snapshots and base not in seen and ".." not in base.parts:
        yield base
        seen.add(base)
        base = disks.overlay_base(base)


def golden_base(disks: DiskTool, disk: Path, snapshots: Path) -> Path | None:
    """The file that a disk stands on in the end; None if it is absent, or stands on nothing.

    Raises:
        DamagedDiskError: the disk, or a layer under it, is not usable; a layer that is gone counts as that.
    """
    below = disk
    for below in layers_under(disks, disk, snapshots):
        if not below.is_file():
            return below
    return disks.overlay_base(below)
