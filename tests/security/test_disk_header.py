"""A disk whose header was rewritten by a guest's QEMU is not opened for writing by root."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.qemu_img import QemuImg
from emulator.core.errors import DamagedDiskError, HyperscalerError


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_a_disk_that_keeps_its_data_in_another_file_is_refused(tmp_path: Path) -> None:
    """As root, `qemu-img resize` of such a disk would write to that file."""
    victim, disk = tmp_path / "shadow", tmp_path / "node.qcow2"
    victim.write_bytes(b"root:secret\n")
    options = f"data_file={victim},data_file_raw=on"
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(disk), "1M"]
    subprocess.run(create, check=True)
    victim.write_bytes(b"root:secret\n")
    tool = QemuImg(HostProcess())
    attempts: tuple[Callable[[], object], ...] = (
        lambda: tool.resize(disk, size_gib=1),
        lambda: tool.overlay_base(disk),
        lambda: tool.size_gib(disk),
    )
    for attempt in attempts:
        with pytest.raises(HyperscalerError, match="names another file for its data"):
            attempt()
    assert victim.read_bytes() == b"root:secret\n"


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
@pytest.mark.parametrize("planted", ["file", "server"])
def test_a_disk_grows_without_a_look_at_what_is_said_to_be_behind_it(tmp_path: Path, planted: str) -> None:
    """The header's name of the image may lead to a device that acts when it is opened, a pipe, or a server."""
    disk = tmp_path / "a node, with = odd : name.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk), "1G"], check=True)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    name = f'json:{{"driver": "file", "filename": "{pipe}"}}' if planted == "file" else "nbd://127.0.0.1:1/x"
    subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", name, str(disk)], check=True)
    tool = QemuImg(HostProcess())
    tool.resize(disk, size_gib=2)
    assert tool.size_gib(disk) == 2
    assert str(tool.overlay_base(disk)) == str(Path(name)), "nor is the name changed"


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img")
def test_a_disk_of_another_format_opens_no_files_that_it_names(tmp_path: Path) -> None:
    """Its user may write a description of a VMDK over it, whose parts lie in files of root's."""
    disk, pipe = tmp_path / "node.qcow2", tmp_path / "pipe"
    os.mkfifo(pipe)
    lines = ["# Disk DescriptorFile", "version=1", "CID=fffffffe", "parentCID=ffffffff", 'createType="monolithicFlat"']
    disk.write_text("\n".join([*lines, "# Extent description", f'RW 2048 FLAT "{pipe}" 0', ""]))
    tool = QemuImg(HostProcess())
    assert tool.overlay_base(disk) is None
    with pytest.raises(DamagedDiskError, match="not in qcow2 format"):
        tool.size_gib(disk)  # a guess would wait at the pipe
