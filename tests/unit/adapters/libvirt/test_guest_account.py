"""What is handed to QEMU's account, and that nothing else can be."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from emulator.adapters.libvirt.guest_account import admit, hand_over, open_devices, vfio_nodes
from emulator.core.errors import HypervisorError
from emulator.core.ports import Hostdev, HostdevKind
from emulator.core.ports.guest_accounts import GuestAccount

ME = GuestAccount(os.getuid(), os.getgid())
"""An account that any user may give files to: the user's own."""
OTHER = GuestAccount(64055, 107)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_console_log_is_created_for_qemu(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    hand_over(ME, disks=(), console_log=log)
    assert log.read_bytes() == b"" and mode(log) == 0o600
    log.write_text("said")
    hand_over(ME, disks=(), console_log=log)
    assert log.read_text() == "said"


@needs_root
def test_disk_and_log_belong_to_the_account_afterwards(tmp_path: Path) -> None:
    disk, log = tmp_path / "node.qcow2", tmp_path / "node.log"
    disk.write_bytes(b"disk")
    hand_over(OTHER, disks=(disk,), console_log=log)
    assert {(path.stat().st_uid, path.stat().st_gid, mode(path)) for path in (disk, log)} == {(64055, 107, 0o600)}


@pytest.mark.parametrize("what", ["link", "hard link", "directory", "fifo", "absent"])
def test_only_a_file_of_its_own_is_given_away(tmp_path: Path, what: str) -> None:
    secret, disk = tmp_path / "secret", tmp_path / "node.qcow2"
    secret.write_text("secret")
    secret.chmod(0o640)
    match what:
        case "link":
            disk.symlink_to(secret)
        case "hard link":
            disk.hardlink_to(secret)
        case "directory":
            disk.mkdir()
        case "fifo":
            os.mkfifo(disk)
    with pytest.raises(HypervisorError) as caught:
        hand_over(ME, disks=(disk,), console_log=None)
    assert caught.value.where == str(disk)
    assert mode(secret) == 0o640


def test_a_planted_link_is_no_console_log(tmp_path: Path) -> None:
    target = tmp_path / "passwd"
    target.write_text("x")
    target.chmod(0o644)
    (tmp_path / "node.log").symlink_to(target)
    with pytest.raises(HypervisorError):
        hand_over(ME, disks=(), console_log=tmp_path / "node.log")
    assert mode(target) == 0o644


def test_directories_are_passed_through_and_not_listed(tmp_path: Path) -> None:
    directory = tmp_path / "disks"
    directory.mkdir(mode=0o700)
    admit(ME, [directory, directory])
    assert mode(directory) == 0o710


@needs_root
def test_a_directory_of_somebody_else_stays_closed(tmp_path: Path) -> None:
    directory = tmp_path / "disks"
    directory.mkdir(mode=0o700)
    os.chown(directory, 64055, 107)
    with pytest.raises(HypervisorError, match="not a directory of our own"):
        admit(OTHER, [directory])
    assert mode(directory) == 0o700


def test_a_link_in_the_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "disks").symlink_to(tmp_path / "real")
    with pytest.raises(HypervisorError):
        admit(ME, [tmp_path / "disks"])
    assert mode(tmp_path / "real") == 0o700


UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"


def test_vfio_groups_of_all_kinds_of_devices_are_found(tmp_path: Path) -> None:
    sys, dev = tmp_path / "sys", tmp_path / "dev"
    (dev / "vfio").mkdir(parents=True)
    for bus, address, group in (("pci", "0000:41:00.4", "7"), ("pci", "0000:c1:00.0", "9"), ("mdev", UUID, "11")):
        device = sys / "bus" / bus / "devices" / address
        device.mkdir(parents=True)
        (device / "iommu_group").symlink_to(f"../../../../kernel/iommu_groups/{group}")
        if group != "9":
            (dev / "vfio" / group).touch()
    devices = [
        Hostdev(HostdevKind.VFIO_VF, "0000:41:00.4"),
        Hostdev(HostdevKind.PCI, "0000:c1:00.0"),  # not bound to vfio-pci yet
        Hostdev(HostdevKind.MDEV, UUID),
        Hostdev(HostdevKind.PCI, "0000:00:00.0"),  # not there
    ]
    nodes = vfio_nodes(devices, sys, dev)
    assert nodes == (dev / "vfio" / "7", dev / "vfio" / "11")
    open_devices(ME, nodes)
    with pytest.raises(HypervisorError):
        open_devices(ME, [dev / "vfio" / "none"])
