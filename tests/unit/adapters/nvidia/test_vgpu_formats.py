"""The odd spellings of sysfs, over real files in a made-up tree."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from uuid import UUID

import pytest

from emulator.adapters.nvidia.pci_sysfs import SysfsPci, normal_address
from emulator.adapters.nvidia.vgpu_mdev import MdevHost
from emulator.adapters.nvidia.vgpu_vfio import VendorVfioHost, parse_creatable
from emulator.adapters.system.host_files import HostFiles
from emulator.gpu.errors import GpuArgumentError, GpuTimeoutError
from emulator.gpu.ports import VgpuFramework, VgpuRequest

PF, VF = "0000:41:00.0", "0000:41:00.4"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("\n", {}),
        ("ID    : vGPU Name\n", {}),
        ("ID    : vGPU Name\n558   : NVIDIA A40-1Q\n", {"A40-1Q": 558}),
        ("ID    : vGPU Name\n1546  : NVIDIA RTX Pro 6000 Blackwell DC-1-2Q\n", {"DC-1-2Q": 1546}),
        ("NVIDIA A40-1Q      558\n", {"A40-1Q": 558}),
        ("vGPU Name   ID\nGRID A100D-1-10C 699\nGRID A100D-2-20C 700", {"A100D-1-10C": 699, "A100D-2-20C": 700}),
        ("699 GRID A100D-1-10C\n", {"A100D-1-10C": 699}),
        ("699:GRID A100D-1-10CME\n", {"A100D-1-10CME": 699}),
        ("garbage\n699 : A100D-1-10C\n: 3\n", {"A100D-1-10C": 699}),
    ],
)
def test_both_layouts_of_creatable_types_are_read(text: str, found: dict[str, int]) -> None:
    assert parse_creatable(text) == found


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0000:41:00.0", "0000:41:00.0"),
        ("41:00.0", "0000:41:00.0"),
        ("00000000:41:00.0", "0000:41:00.0"),
        ("00000001:AF:1f.7", "0001:af:1f.7"),
    ],
)
def test_pci_addresses_have_one_spelling(text: str, address: str) -> None:
    assert normal_address(text) == address


@pytest.mark.parametrize("text", ["", "0000:41:00", "0000:41:00.8", "../../x", "0000:41:00.0/..", "41:00.0\n41:00.1"])
def test_what_is_no_pci_address_never_becomes_a_path(text: str) -> None:
    with pytest.raises(GpuArgumentError, match="not a PCI address"):
        normal_address(text)


def _function(root: Path, address: str, **files: str) -> Path:
    base = root / "sys/devices" / address
    base.mkdir(parents=True)
    for name, text in {"vendor": "0x10de", "device": "0x20b2", "class": "0x030200", **files}.items():
        (base / name).write_text(f"{text}\n")
    listed = root / "sys/bus/pci/devices"
    listed.mkdir(parents=True, exist_ok=True)
    (listed / address).symlink_to(f"../../../devices/{address}")
    return base


def test_a_function_is_read_from_files(tmp_path: Path) -> None:
    base = _function(tmp_path, PF, driver_override="(null)", sriov_numvfs="1", sriov_totalvfs="16")
    _function(tmp_path, VF)
    for name, target in {
        "driver": "../../bus/pci/drivers/nvidia",
        "iommu_group": "../../kernel/iommu_groups/14",
        "virtfn0": f"../{VF}",
    }.items():
        (base / name).symlink_to(target)
    device = SysfsPci(HostFiles(tmp_path)).device("41:00.0")
    assert device is not None
    assert (device.vendor, device.device, device.class_code) == ("10de", "20b2", "030200")
    assert (device.driver, device.driver_override, device.iommu_group) == ("nvidia", None, 14)
    assert (device.numvfs, device.totalvfs, device.virtfns) == (1, 16, (VF,))
    assert SysfsPci(HostFiles(tmp_path)).device("0000:99:00.0") is None


def test_holders_are_found_through_open_files(tmp_path: Path) -> None:
    for pid, name, target in ((17, "dcgm", "/dev/nvidia0"), (18, "bash", "/dev/null"), (19, "x", "/dev/nvidia01")):
        (tmp_path / f"proc/{pid}/fd").mkdir(parents=True)
        (tmp_path / f"proc/{pid}/comm").write_text(f"{name}\n")
        (tmp_path / f"proc/{pid}/fd/3").symlink_to(target)
    (tmp_path / "proc/self").mkdir()
    found = SysfsPci(HostFiles(tmp_path)).holders("/dev/nvidia0")
    assert [(item.pid, item.name, item.path) for item in found] == [(17, "dcgm", "/dev/nvidia0")]


def test_mdev_types_are_found_by_the_last_word_of_their_name(tmp_path: Path) -> None:
    base = _function(tmp_path, VF)
    for number, name in ((699, "GRID A100D-1-10C"), (700, "A100D-2-20C"), (1546, "NVIDIA RTX Pro 6000 DC-1-2Q")):
        kind = base / "mdev_supported_types" / f"nvidia-{number}"
        kind.mkdir(parents=True)
        (kind / "name").write_text(f"{name}\n")
        (kind / "available_instances").write_text("1\n")
    (base / "mdev_supported_types" / "nvidia-1").mkdir()  # a type that is going away has no name
    bus = tmp_path / "sys/class/mdev_bus"
    bus.mkdir(parents=True)
    (bus / VF).symlink_to(f"../../devices/{VF}")
    host = MdevHost(HostFiles(tmp_path))
    assert host.parents(VF)[0].creatable == {"A100D-1-10C": 699, "A100D-2-20C": 700, "DC-1-2Q": 1546}
    with pytest.raises(GpuArgumentError, match=r"'A100X-1-5C'.*offers A100D-1-10C, A100D-2-20C, DC-1-2Q"):
        host.create(VgpuRequest(VF, "A100X-1-5C", UUID(int=1)))


def test_a_mediated_device_is_read_back_through_its_links(tmp_path: Path) -> None:
    base = _function(tmp_path, VF)
    uuid = UUID("c29092c8-f8f1-5ec9-aa24-092642a86b29")
    kind = base / "mdev_supported_types/nvidia-699"
    kind.mkdir(parents=True)
    (kind / "name").write_text("GRID A100D-1-10C\n")
    (base / str(uuid)).mkdir()
    (base / str(uuid) / "mdev_type").symlink_to("../mdev_supported_types/nvidia-699")
    listed = tmp_path / "sys/bus/mdev/devices"
    listed.mkdir(parents=True)
    (listed / str(uuid)).symlink_to(f"../../../devices/{VF}/{uuid}")
    (device,) = MdevHost(HostFiles(tmp_path)).devices()
    assert (device.parent, device.type_id, device.type_name, device.uuid) == (VF, 699, "A100D-1-10C", uuid)


def test_a_vendor_vfio_function_is_found_by_its_files(tmp_path: Path) -> None:
    base = _function(tmp_path, VF)
    (base / "physfn").symlink_to(f"../{PF}")
    (base / "nvidia").mkdir()
    (base / "nvidia/creatable_vgpu_types").write_text("ID    : vGPU Name\n")
    (base / "nvidia/current_vgpu_type").write_text("699\n")
    files = HostFiles(tmp_path)
    assert SysfsPci(files).framework(VF) is VgpuFramework.VENDOR_VFIO
    (device,) = VendorVfioHost(files).devices()
    # No function offers the type any more, so its number is all that is known.
    assert (device.parent, device.type_id, device.type_name) == (VF, 699, "699")
    asked: list[str] = []

    def from_nvml(address: str) -> dict[int, str]:
        asked.append(address)
        return {699: "A100D-1-10C"}

    (device,) = VendorVfioHost(files, from_nvml).devices()
    assert (device.type_id, device.type_name, asked) == (699, "A100D-1-10C", [PF])


# ---------------------------------------------------------------- writing
def test_a_write_reaches_the_file_and_gives_the_kernels_errno(tmp_path: Path) -> None:
    files = HostFiles(tmp_path)
    (tmp_path / "bind").write_text("")
    files.write("/bind", "0000:41:00.0")
    assert files.read("/bind") == "0000:41:00.0"
    with pytest.raises(OSError) as caught:
        files.write("/absent/create", "x")
    assert caught.value.errno == errno.ENOENT


def test_a_write_that_blocks_is_abandoned(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "remove")  # opening it for writing blocks until there is a reader: there never is one
    with pytest.raises(GpuTimeoutError, match=r"did not finish the write of '1' within 0.3 seconds"):
        HostFiles(tmp_path).write("/remove", "1", timeout=0.3)
