"""IOMMU groups, drivers and the firmware's console: what keeps a GPU from a guest, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emulator.host.checks import check_host_readings
from emulator.host.checks.result import HostCheckResult, Level, Wanted
from emulator.host.framebuffers import Framebuffer, framebuffer_on, parse_framebuffers
from tests.support import host_trees

GPU, OTHER = "0000:81:00.0", "0000:82:00.0"
WHOLE = Wanted(lab="l", devices=(("GPU-0", GPU),), whole=True)
BOTH = Wanted(lab="l", devices=(("GPU-0", GPU), ("GPU-1", OTHER)), whole=True)
SLICES = Wanted(lab="l", devices=(("GPU-0", GPU),), slices=True)


def judged(root: Path, id_: str, wanted: Wanted, **changes: Any) -> HostCheckResult:
    report = check_host_readings(host_trees.read(host_trees.plant(root, "amd", **changes)), wanted)
    return next(result for result in report.results if result.id == id_)


def rows(*more: dict[str, Any], **gpu: Any) -> list[dict[str, Any]]:
    return [{"at": GPU, "id": "10de:20f1", "driver": "nvidia", "group": 14, **gpu}, *more]


# ---------------------------------------------------------------- IOMMU groups
@pytest.mark.parametrize(
    ("class_code", "pci_id", "driver", "level", "named"),
    [
        ("060400", "10de:22a3", "pcieport", Level.PASS, ""),
        ("060401", "8086:1bb0", None, Level.PASS, ""),
        ("068000", "10de:22a3", "nvidia-nvswitch", Level.FAIL, "(NVSwitch, driver nvidia-nvswitch)"),
        ("068000", "1022:1485", "ccp", Level.FAIL, "(bridge, driver ccp)"),
        ("060000", "8086:3e34", "skl_uncore", Level.FAIL, "(host bridge, driver skl_uncore)"),
        ("060000", "1022:1482", None, Level.WARN, "(host bridge, no driver)"),
        ("060100", "8086:7a06", "lpc_ich", Level.FAIL, "(ISA bridge, driver lpc_ich)"),
        ("020000", "8086:1563", "ixgbe", Level.FAIL, "(network interface, driver ixgbe)"),
        ("010802", "144d:a80a", "nvme", Level.FAIL, "(disk controller, driver nvme)"),
        ("ff0000", "1234:5678", "odd", Level.FAIL, "(class ff00, driver odd)"),
    ],
)
def test_only_bridges_between_buses_are_no_endpoints(
    tmp_path: Path, class_code: str, pci_id: str, driver: str | None, level: Level, named: str
) -> None:
    mate = {"at": "0000:05:00.0", "id": pci_id, "class": class_code, "group": 14}
    mate |= {"driver": driver} if driver else {}
    result = judged(tmp_path / "whole", "iommu.groups", WHOLE, pci=rows(mate))
    assert result.level is level
    if named:
        assert result.found == f"{GPU} shares group 14 with 0000:05:00.0 {named}"
        assert judged(tmp_path / "any", "iommu.groups", Wanted(), pci=rows(mate)).level is Level.WARN


def test_a_lab_that_takes_all_endpoints_of_a_group_may(tmp_path: Path) -> None:
    second = {"at": OTHER, "id": "10de:20f1", "driver": "nvidia", "group": 14}
    audio = {"at": "0000:82:00.1", "id": "10de:10f7", "class": "040300", "driver": "snd_hda_intel", "group": 14}
    assert judged(tmp_path / "one", "iommu.groups", WHOLE, pci=rows(second, audio)).level is Level.FAIL
    both = judged(tmp_path / "both", "iommu.groups", BOTH, pci=rows(second, audio))
    assert both.level is Level.PASS
    assert f"with {OTHER}, which must go to the same node" in both.found


# ---------------------------------------------------------------- drivers
@pytest.mark.parametrize(
    ("driver", "wanted", "level"),
    [
        ("nvidia", SLICES, Level.PASS),
        ("nvidia", WHOLE, Level.PASS),
        ("vfio-pci", WHOLE, Level.PASS),
        ("vfio-pci", SLICES, Level.FAIL),
        ("xen-pciback", SLICES, Level.FAIL),
        ("xen-pciback", WHOLE, Level.WARN),
        ("NovaCore", Wanted(), Level.WARN),
        ("nouveau", Wanted(), Level.PASS),  # it has a check of its own
    ],
)
def test_a_driver_that_has_a_gpu_is_named(tmp_path: Path, driver: str, wanted: Wanted, level: Level) -> None:
    result = judged(tmp_path, "gpu.binding", wanted, pci=rows(driver=driver))
    assert result.level is level
    assert driver in result.found
    if level is not Level.PASS:
        assert f"echo {GPU} > /sys/bus/pci/drivers/{driver}/unbind" in result.fix


# ---------------------------------------------------------------- the firmware's console
ON_THE_GPU = f"c0000000-cfffffff : PCI Bus 0000:81\n  c0000000-cfffffff : {GPU}\n    c0000000-c0bfffff : BOOTFB\n"
ON_ANOTHER = "00000000-00000000 : PCI Bus 0000:00\n  00000000-00000000 : 0000:00:02.0\n    0-0 : BOOTFB\n"


@pytest.mark.parametrize(
    ("iomem", "fb", "boot_vga", "name"),
    [
        ("c0000000-cfffffff : PCI Bus 0000:81\n  c0000000-c0bfffff : BOOTFB\n", "0 EFI VGA\n", "1", "BOOTFB"),
        (ON_THE_GPU, "", "1", "BOOTFB"),
        (ON_THE_GPU, "", None, "BOOTFB"),
        (ON_THE_GPU.replace("BOOTFB", "simple-framebuffer.0"), "", "1", "simple-framebuffer.0"),
        (ON_THE_GPU.replace("BOOTFB", "efifb"), "", "0", "efifb"),
        ("e0000000-e0bfffff : BOOTFB\n", "", "1", "BOOTFB"),
        ("e0000000-e0bfffff : BOOTFB\n", "", "0", ""),
        ("e0000000-e0bfffff : BOOTFB\n", "", None, ""),
        (ON_ANOTHER, "", "1", ""),
        (ON_THE_GPU.replace("BOOTFB", "nvidia"), "0 nvidia-drmdrmfb\n", "1", ""),
        ("", "0 EFI VGA\n", "1", "EFI VGA"),
        ("", "", "1", ""),
    ],
)
def test_a_gpu_with_the_firmware_s_framebuffer(
    tmp_path: Path, iomem: str, fb: str, boot_vga: str | None, name: str
) -> None:
    files = {"/proc/iomem": iomem, "/proc/fb": fb}
    if boot_vga is not None:
        files[f"/sys/bus/pci/devices/{GPU}/boot_vga"] = f"{boot_vga}\n"
    result = judged(tmp_path / "whole", "gpu.framebuffer", WHOLE, files=files)
    assert result.level is (Level.WARN if name else Level.PASS)
    if name:
        first = ", boot_vga 1" if boot_vga == "1" else ""
        assert result.found == f"{GPU} is the GPU that the firmware's framebuffer is on ({name}{first})"
        assert "initcall_blacklist=sysfb_init" in result.fix
        assert "another card" in result.fix
        assert judged(tmp_path / "sliced", "gpu.framebuffer", SLICES, files=files).level is Level.PASS
        assert judged(tmp_path / "any", "gpu.framebuffer", Wanted(), files=files).level is Level.WARN


def test_the_innermost_place_of_a_framebuffer_counts() -> None:
    text = f"00000000-00000fff : Reserved\n{ON_THE_GPU}torn\n  x-y : BOOTFB\nd0000000-d0000fff : efifb\n"
    assert parse_framebuffers(text, "") == (Framebuffer("BOOTFB", GPU, "0000:81"), Framebuffer("efifb"))
    assert framebuffer_on("0000:81:00.1", None, parse_framebuffers(text, "")) == "BOOTFB"
    assert parse_framebuffers("", "0 EFI VGA\n1 nouveaudrmfb\nx\n") == (Framebuffer("EFI VGA"),)
