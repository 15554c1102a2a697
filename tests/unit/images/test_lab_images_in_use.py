"""Which golden images labs stand on: those under present disks, and those under the disks of snapshots."""

from __future__ import annotations

from pathlib import Path

from emulator.images.lab_images import used_base_images


def test_an_image_that_only_a_snapshot_stands_on_is_in_use(tmp_path: Path) -> None:
    disk = tmp_path / "demo" / "disks" / "hpc-controller.qcow2"
    frozen = disk.parent / "snapshots" / "first" / "hpc-controller.qcow2"
    frozen.parent.mkdir(parents=True)
    for path in (disk, frozen):
        path.touch()
    (frozen.parent / "hpc-controller.ram").touch()
    bases = {disk: Path("/images/new"), frozen: Path("/images/old")}
    assert used_base_images(tmp_path, lambda path: bases[path]) == {
        Path("/images/new"): disk,
        Path("/images/old"): frozen,
    }
