"""Saved states of guests: one suite for the simulated hypervisor, and a real private libvirtd with real QEMU."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor
from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor
from emulator.adapters.simulated.disks import SimulatedDisks
from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.qemu_img import QemuImg
from emulator.core.errors import HypervisorError
from emulator.core.ports import DiskTool, DomainState, Hypervisor
from tests.support.tiny_guest import TinyGuests, counting_kernel


@dataclass
class Bench:
    hypervisor: Hypervisor
    disks: DiskTool
    guests: TinyGuests
    disk: Path

    def start(self) -> None:
        """A guest that counts, in its memory alone, and says how far it is."""
        self.hypervisor.define_network(self.guests.network())
        self.hypervisor.define_domain(self.guests.domain("a", disk=self.disk))
        self.hypervisor.start_domain("a")

    def is_in(self, state: DomainState) -> bool:
        info = self.hypervisor.domain("a")
        return info is not None and info.state is state

    @property
    def ram(self) -> Path:
        return self.guests.root / "a.ram"

    @property
    def frozen(self) -> Path:
        return self.guests.root / "snapshots" / "s" / "a.qcow2"

    def count(self) -> int:
        """How far the guest is; it is waited for until it has said so anew."""
        if isinstance(self.hypervisor, SimulatedHypervisor):
            count = int(self.hypervisor.remembers("a") or "0") + 1
            self.hypervisor.remember("a", str(count))
            return count
        log = self.guests.root / "a.log"
        length = log.stat().st_size if log.exists() else 0
        while not (said := re.findall(rb"[a-z]+", log.read_bytes()[length:] if log.exists() else b"")[1:-1]):
            assert self.is_in(DomainState.RUNNING)
            time.sleep(0.05)
        return place_of(said[-1])

    def freeze(self) -> None:
        self.frozen.parent.mkdir(parents=True, exist_ok=True)
        self.hypervisor.admit_guests([self.frozen.parent.parent, self.frozen.parent])
        self.disks.freeze(self.disk, self.frozen)


def place_of(word: bytes) -> int:
    """The number that the guest says as letters, the highest first."""
    number = 0
    for letter in word:
        number = number * 16 + letter - ord("a")
    return number


@pytest.fixture(params=["memory", "file", pytest.param("libvirt", marks=pytest.mark.host)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    guests = TinyGuests.prepare(tmp_path / "lab")
    base, disk = tmp_path / "base.qcow2", guests.root / "a.qcow2"
    if request.param != "libvirt":
        base.write_bytes(b"image")
        disks = SimulatedDisks()
        disks.create_overlay(disk, base=base, size_gib=1)
        yield Bench(SimulatedHypervisor(tmp_path / "s" if request.param == "file" else None), disks, guests, disk)
        return
    runner = HostProcess()
    (guests.root / "vmlinuz").write_bytes(counting_kernel())
    runner.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "64M"], timeout=30)
    tool = QemuImg(runner)
    tool.create_overlay(disk, base=base, size_gib=1)
    daemon = EmbeddedHypervisor(tmp_path / "h", f"hst-s{os.getpid()}", runner, writable=(tmp_path,))
    try:
        connection = LibvirtHypervisor(daemon.start(), daemon.guest_command_prefix())
        connection.admit_guests([*reversed(tmp_path.parents[:-2]), tmp_path, guests.root])
        yield Bench(connection, tool, guests, disk)
        connection.close()
    finally:
        daemon.stop()


def test_a_guest_goes_on_with_its_memory_as_often_as_it_is_restored(bench: Bench) -> None:
    bench.start()
    bench.count()
    bench.hypervisor.pause_domain("a")
    bench.hypervisor.save_domain("a", bench.ram)
    assert bench.is_in(DomainState.SHUTOFF)
    assert bench.ram.is_file() and bench.ram.stat().st_mode & 0o077 == 0
    assert [path.name for path in bench.guests.root.iterdir() if "partial" in path.name] == []
    bench.freeze()
    seen: list[int] = []
    for _ in range(2):
        bench.hypervisor.power_off_domain("a")
        bench.disks.rewind(bench.disk, base=bench.frozen)
        bench.hypervisor.restore_domain("a", bench.ram)
        assert bench.is_in(DomainState.PAUSED)
        bench.hypervisor.start_domain("a")
        seen.append(bench.count())
    assert bench.is_in(DomainState.RUNNING)
    bench.hypervisor.power_off_domain("a")
    bench.hypervisor.start_domain("a")
    booted = bench.count()
    assert min(seen) > booted, "a restored guest goes on from where it was, a booted one begins anew"


def test_what_is_off_has_no_state_and_what_is_on_takes_none(bench: Bench) -> None:
    bench.start()
    with pytest.raises(HypervisorError):
        bench.hypervisor.restore_domain("a", bench.ram)
    bench.hypervisor.save_domain("a", bench.ram)
    with pytest.raises(HypervisorError):
        bench.hypervisor.save_domain("a", bench.ram.with_suffix(".other"))
    assert not bench.ram.with_suffix(".other").exists()
    bench.hypervisor.restore_domain("a", bench.ram)
    with pytest.raises(HypervisorError):
        bench.hypervisor.restore_domain("a", bench.ram)
    assert bench.is_in(DomainState.PAUSED)


def test_a_file_that_is_no_saved_state_or_another_guests_is_refused(bench: Bench) -> None:
    bench.start()
    bench.hypervisor.save_domain("a", bench.ram)
    other = bench.guests.root / "b.qcow2"
    bench.disks.create_overlay(other, base=bench.guests.root.parent / "base.qcow2", size_gib=1)
    bench.hypervisor.define_domain(bench.guests.domain("b", disk=other, index=2))
    with pytest.raises(HypervisorError):
        bench.hypervisor.restore_domain("b", bench.ram)
    junk = bench.guests.root / "junk.ram"
    junk.write_bytes(bench.ram.read_bytes()[:-40] if bench.ram.stat().st_size < 4000 else b"LibvirtQemudPart" * 99)
    for file in (junk, bench.guests.root / "absent.ram"):
        with pytest.raises(HypervisorError):
            bench.hypervisor.restore_domain("a", file)
    assert bench.is_in(DomainState.SHUTOFF)


def test_power_off_can_be_repeated_and_leaves_the_definition(bench: Bench) -> None:
    bench.start()
    for _ in range(2):
        bench.hypervisor.power_off_domain("a")
        assert bench.is_in(DomainState.SHUTOFF)
    bench.hypervisor.power_off_domain("absent")


def test_layers_are_put_together_while_the_guest_runs(bench: Bench) -> None:
    base = bench.guests.root.parent / "base.qcow2"
    bench.start()  # its disk is the guest's own from then on
    bench.hypervisor.power_off_domain("a")
    bench.freeze()
    assert bench.disks.overlay_base(bench.disk) == bench.frozen
    assert bench.disks.overlay_base(bench.frozen) == base
    bench.freeze()  # again: nothing happens
    assert bench.disks.overlay_base(bench.disk) == bench.frozen
    with pytest.raises(HypervisorError):
        bench.hypervisor.flatten_disk("a", base)
    bench.start()
    with pytest.raises(HypervisorError):
        bench.hypervisor.flatten_disk("a", bench.guests.root / "other.qcow2")
    for _ in range(2):
        bench.hypervisor.flatten_disk("a", base)
        assert bench.disks.overlay_base(bench.disk) == base
    assert bench.is_in(DomainState.RUNNING)


def test_the_machine_is_told_in_words_that_stay(bench: Bench) -> None:
    assert bench.hypervisor.machine(accelerated=False) == bench.hypervisor.machine(accelerated=False)
    assert bench.hypervisor.machine(accelerated=True) != bench.hypervisor.machine(accelerated=False)


def test_a_disk_whose_freezing_was_interrupted_is_frozen_whole(bench: Bench) -> None:
    bench.frozen.parent.mkdir(parents=True)
    os.link(bench.disk, bench.frozen)  # both names, and no overlay yet
    bench.freeze()
    assert bench.disks.overlay_base(bench.disk) == bench.frozen
    assert bench.frozen.stat().st_nlink == 1
    assert bench.frozen.stat().st_mode & 0o222 == 0


def test_a_state_that_was_saved_after_flattening_is_restored_on_the_layers_of_now(bench: Bench) -> None:
    base = bench.guests.root.parent / "base.qcow2"
    bench.start()
    bench.hypervisor.power_off_domain("a")
    bench.freeze()
    bench.hypervisor.start_domain("a")
    bench.hypervisor.flatten_disk("a", base)
    bench.hypervisor.save_domain("a", bench.ram)
    second = bench.guests.root / "snapshots" / "t" / "a.qcow2"
    second.parent.mkdir(parents=True)
    bench.hypervisor.admit_guests([second.parent])
    bench.disks.freeze(bench.disk, second)
    bench.hypervisor.restore_domain("a", bench.ram)
    bench.hypervisor.start_domain("a")
    bench.count()
    if isinstance(bench.hypervisor, LibvirtHypervisor):
        text = bench.hypervisor._connect().lookupByName("a").XMLDesc(0)
        assert re.findall(r"<source file='([^']+qcow2)'", text) == [str(bench.disk), str(second), str(base)]
    bench.hypervisor.flatten_disk("a", base)
    assert bench.disks.overlay_base(bench.disk) == base
