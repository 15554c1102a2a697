"""A recorded host is read below its directory and nowhere else, with links kept as links or as text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.adapters.nvidia.pci_sysfs import SysfsPci
from emulator.adapters.system.host_files import RecordedFiles
from tests.support import host_trees


def links_as_text(root: Path) -> Path:
    """What a copy without symbolic links (an archive, a share) makes of a tree."""
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            target = path.readlink()
            path.unlink()
            path.write_text(f"{target}\n")
    return root


@pytest.mark.parametrize("name", host_trees.NAMES)
def test_links_that_were_copied_as_text_are_links(tmp_path: Path, name: str) -> None:
    with_links = host_trees.read(host_trees.plant(tmp_path / "links", name))
    assert host_trees.read(links_as_text(host_trees.plant(tmp_path / "text", name))) == with_links


def test_drivers_and_groups_are_known_from_text(tmp_path: Path) -> None:
    root = links_as_text(host_trees.plant(tmp_path, "amd"))
    (gpu, other) = SysfsPci(RecordedFiles(root)).devices(vendor="10de")
    assert (gpu.driver, gpu.iommu_group, other.driver, other.iommu_group) == ("nvidia", 14, "vfio-pci", 15)


def test_links_lead_to_places_of_the_recorded_host(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("of the machine that reads")
    root = tmp_path / "host"
    (root / "usr/lib").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "usr/lib/os-release").write_text("ID=debian\n")
    (root / "etc/os-release").symlink_to("/usr/lib/os-release")
    (root / "etc/up").symlink_to("../../outside")
    (root / "lib").symlink_to("usr/lib")
    (root / "round").symlink_to("round")
    files = RecordedFiles(root)
    assert files.read("/etc/os-release") == "ID=debian\n"
    assert files.read("/lib/os-release") == "ID=debian\n"
    assert files.listdir("/lib") == ("os-release",)
    assert files.readlink("/etc/os-release") == "/usr/lib/os-release"
    assert not files.exists("/lib/../../outside")
    for path in ("/etc/up", "/outside", "/round", "/etc"):
        with pytest.raises(OSError):
            files.read(path)


def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cpuinfo")
    with pytest.raises(OSError, match="not an ordinary file"):
        RecordedFiles(tmp_path).read("/cpuinfo")
