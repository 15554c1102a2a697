"""One suite for qemu-img and for simulated disks."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from emulator.adapters.simulated.disks import SimulatedDisks
from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.qemu_img import QemuImg
from emulator.core.errors import CommandError, ConflictError, DamagedDiskError, HyperscalerError
from emulator.core.ports import DiskTool
from tests.support.fake_runner import FakeRunner, Say
from tests.support.waiting import PATIENCE


@dataclass
class Bench:
    disks: DiskTool
    root: Path
    base: Path
    other: Path


@pytest.fixture(params=["simulated", pytest.param("qemu-img", marks=pytest.mark.host)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """`base` is an image of 2 GiB, `other` a file that is no image."""
    base, other = tmp_path / "base.qcow2", tmp_path / "other"
    other.write_bytes(b"plain" * 1000)
    if request.param == "qemu-img":
        HostProcess().run(["qemu-img", "create", "-q", "-f", "qcow2", base, "2G"], timeout=PATIENCE)
        yield Bench(QemuImg(HostProcess()), tmp_path / "disks", base, other)
    else:
        seed = tmp_path / "seed"
        seed.write_bytes(b"image")
        disks = SimulatedDisks()
        disks.create_overlay(base, base=seed, size_gib=2)
        yield Bench(disks, tmp_path / "disks", base, other)


def test_an_overlay_knows_its_base_and_size(bench: Bench) -> None:
    path = bench.root / "a.qcow2"
    assert bench.disks.overlay_base(path) is None
    bench.disks.create_overlay(path, base=bench.base, size_gib=5)
    assert bench.disks.overlay_base(path) == bench.base
    assert bench.disks.size_gib(path) == 5
    assert [entry.name for entry in bench.root.iterdir()] == ["a.qcow2"]
    assert stat.S_IMODE(bench.root.stat().st_mode) == 0o700


def test_an_overlay_is_never_smaller_than_its_base(bench: Bench) -> None:
    path = bench.root / "a.qcow2"
    bench.disks.create_overlay(path, base=bench.base, size_gib=1)
    assert bench.disks.size_gib(path) == 2


def test_what_is_there_is_never_overwritten(bench: Bench) -> None:
    path = bench.root / "a.qcow2"
    bench.disks.create_overlay(path, base=bench.base, size_gib=3)
    before = path.read_bytes()
    with pytest.raises(ConflictError):
        bench.disks.create_overlay(path, base=bench.base, size_gib=4)
    assert path.read_bytes() == before
    link = bench.root / "link.qcow2"
    link.symlink_to(bench.root / "nowhere")
    with pytest.raises(ConflictError):
        bench.disks.create_overlay(link, base=bench.base, size_gib=4)
    assert not (bench.root / "nowhere").exists()


def test_a_missing_base_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(HyperscalerError, match="missing"):
        bench.disks.create_overlay(bench.root / "a.qcow2", base=bench.root / "absent", size_gib=1)
    assert not bench.root.exists() or list(bench.root.iterdir()) == []


def test_a_file_of_another_kind_is_no_overlay(bench: Bench) -> None:
    assert bench.disks.overlay_base(bench.other) is None
    with pytest.raises(HyperscalerError):
        bench.disks.size_gib(bench.other)


def test_a_damaged_disk_differs_from_one_that_cannot_be_read(bench: Bench) -> None:
    path = bench.root / "a.qcow2"
    bench.disks.create_overlay(path, base=bench.base, size_gib=3)
    content = bytearray(path.read_bytes())
    content[7] = 9  # the version in a qcow2's header
    path.write_bytes(content if isinstance(bench.disks, QemuImg) else path.read_bytes()[:60])
    with pytest.raises(DamagedDiskError, match="the disk is damaged"):
        bench.disks.overlay_base(path)


@pytest.mark.parametrize(
    "status, said",
    [
        (1, "qemu-img: Could not open '/a': Could not open '/a': Permission denied"),
        (1, "qemu-img: Could not open '/a': Could not read L1 table: Input/output error"),
        (1, "qemu-img: Could not open '/a': Cannot allocate memory"),
        (1, "qemu-img: Failed to initialize the main loop: Too many open files"),
        (-9, "qemu-img: Could not open '/a': Unsupported"),
        (127, ""),
    ],
)
def test_a_look_that_fails_says_nothing_of_the_disk(tmp_path: Path, status: int, said: str) -> None:
    disk = tmp_path / "a"
    disk.touch()
    with pytest.raises(CommandError) as caught:
        QemuImg(FakeRunner({"qemu-img": Say(stderr=said, status=status)})).overlay_base(disk)
    assert not isinstance(caught.value, DamagedDiskError)


def test_disks_grow_and_do_not_shrink(bench: Bench) -> None:
    path = bench.root / "a.qcow2"
    bench.disks.create_overlay(path, base=bench.base, size_gib=3)
    bench.disks.resize(path, size_gib=3)
    bench.disks.resize(path, size_gib=6)
    assert bench.disks.size_gib(path) == 6
    with pytest.raises(HyperscalerError, match="cannot shrink"):
        bench.disks.resize(path, size_gib=5)
    assert bench.disks.size_gib(path) == 6
    assert bench.disks.overlay_base(path) == bench.base


@pytest.mark.parametrize(
    "name", ["json:{}", "nbd:localhost", "a,b=c", "-o", "a b", "ä%h", "file:x", "fat:rw:", "x\ny", "$(id)"]
)
def test_hostile_names_are_only_names(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = bench.base.rename(bench.base.with_name(f"base {name}"))
    bench.root.mkdir()
    monkeypatch.chdir(bench.root)
    bench.disks.create_overlay(Path(name), base=base, size_gib=3)
    assert [entry.name for entry in bench.root.iterdir()] == [name]
    assert bench.disks.overlay_base(Path(name)) == base
    assert bench.disks.size_gib(Path(name)) == 3
