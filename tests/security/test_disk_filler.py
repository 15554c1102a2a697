"""A guest that fills its thin disk on the file system that other labs' journals are on: a process that writes without
end stands for its QEMU, and a small file system in memory for the host's disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest

from emulator.apply.journal import Journal
from emulator.core.ports import DomainInfo, DomainState
from emulator.services.disk_reserve import BALLAST, DiskReserve

pytestmark = pytest.mark.host  # root mounts

MIB = 1 << 20
SIZE, RESERVE = 256 * MIB, 64 * MIB
STEP = 0.05  # seconds between two looks

FILLER = """
import os, sys, time
disk = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
try:
    while True:
        os.write(disk, b"x" * 262144)
        time.sleep(float(sys.argv[2]))
except OSError:
    time.sleep(3600)
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


class Qemu:
    """`Guests` of one lab: a process that fills its disk; pausing stops the process."""

    def __init__(self, disk: Path, pause: float) -> None:
        self.disk, self.state = disk, DomainState.RUNNING
        self.process = subprocess.Popen([sys.executable, "-I", "-S", "-c", FILLER, disk, str(pause)])

    def list(self) -> tuple[DomainInfo, ...]:
        return (DomainInfo("lab-node", UUID(int=1), self.state, None, disks=(self.disk,)),)

    def pause(self, name: str) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)
        self.state = DomainState.PAUSED

    def resume(self, name: str) -> None:
        os.kill(self.process.pid, signal.SIGCONT)
        self.state = DomainState.RUNNING

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def free(directory: Path) -> int:
    figures = os.statvfs(directory)
    return figures.f_bavail * figures.f_frsize


def until(reached: Callable[[], bool], *steps: Callable[[], object]) -> None:
    """Go on with the steps until it is so."""
    while not reached():
        for step in steps:
            step()
        time.sleep(STEP)


def test_a_guest_that_fills_its_disk_is_paused_and_other_labs_go_on(small: Path) -> None:
    journal = Journal(small / "other.jsonl")
    qemu = Qemu(small / "node.qcow2", 0.01)  # some 25 MiB in a second
    try:
        watch = DiskReserve(small, small / "x.ballast", RESERVE, qemu)

        def writes() -> None:
            journal.append({"type": "fact", "name": "a", "value": "b"})

        until(lambda: bool(watch.paused), watch.look, writes)
        assert qemu.state is DomainState.PAUSED
        left = free(small)
        assert left > 0, "a look came before all was full"
        for _ in range(20):
            watch.look()
            writes()
        assert free(small) >= left - MIB, "nothing but the journal grows any more"
        os.truncate(qemu.disk, 0)
        until(lambda: qemu.state is DomainState.RUNNING, watch.look)
        assert watch.paused == frozenset()
        assert len(tuple(journal)) > 20
    finally:
        qemu.end()


def test_when_others_take_the_rest_journals_can_still_be_written(small: Path) -> None:
    journal = Journal(small / "other.jsonl")
    qemu = Qemu(small / "node.qcow2", 3600)
    try:
        watch = DiskReserve(small, small / "x.ballast", RESERVE, qemu)
        watch.look()
        assert (small / "x.ballast").stat().st_size == BALLAST
        with (small / "download").open("wb") as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * MIB)
                file.flush()
        watch.look()
        assert not (small / "x.ballast").exists()
        for number in range(1000):
            journal.append({"type": "fact", "name": str(number), "value": "b"})
        (small / "download").unlink()
        watch.look()
        assert (small / "x.ballast").stat().st_size == BALLAST
    finally:
        qemu.end()
