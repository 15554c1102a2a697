"""A disk whose header was rewritten by a guest's QEMU is not opened for writing by root."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.qemu_img import QemuImg
from emulator.core.errors import HyperscalerError


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
