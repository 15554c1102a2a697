"""The initial RAM file system: archive format and the order of its drivers."""

from __future__ import annotations

import lzma
import stat
from pathlib import Path

import pytest

from emulator.core.errors import HyperscalerError
from emulator.images.build.initrd import Entry, build_initrd, load_order, newc


def unpack(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a newc archive as the kernel does: 110 bytes of header, name and data each padded to 4 bytes."""
    members: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        header = archive[at : at + 110]
        assert header[:6] == b"070701"
        fields = [int(header[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        assert archive[at + 110 + name_size - 1] == 0
        data_at = (at + 110 + name_size + 3) // 4 * 4
        if name == "TRAILER!!!":
            return members
        members[name] = (mode, archive[data_at : data_at + size])
        at = (data_at + size + 3) // 4 * 4


def test_the_archive_can_be_read_back() -> None:
    entries = [Entry("dev", stat.S_IFDIR | 0o755), Entry("a", stat.S_IFREG | 0o644, b"12345"), Entry("bb", 0o100600)]
    assert unpack(newc(entries)) == {
        "dev": (stat.S_IFDIR | 0o755, b""),
        "a": (stat.S_IFREG | 0o644, b"12345"),
        "bb": (0o100600, b""),
    }


def system(root: Path) -> Path:
    base = root / "usr" / "lib" / "modules" / "6.1"
    base.mkdir(parents=True)
    (base / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (base / "modules.dep").write_text(
        "k/ring.ko:\nk/virtio.ko: k/ring.ko\n"
        "k/virtio_pci.ko: k/virtio.ko k/ring.ko\nk/virtio-rng.ko: k/virtio.ko k/ring.ko\n"
    )
    (base / "k").mkdir()
    for name in ("ring", "virtio", "virtio_pci", "virtio-rng"):
        (base / "k" / f"{name}.ko").write_bytes(name.encode())
    return base


def test_drivers_come_after_what_they_depend_on_and_once(tmp_path: Path) -> None:
    base = system(tmp_path)
    order = load_order(tmp_path, kernel_version="6.1", modules=["virtio_pci", "ext4", "virtio_rng"])
    assert [path.relative_to(base / "k").name for path in order] == [
        "ring.ko",
        "virtio.ko",
        "virtio_pci.ko",
        "virtio-rng.ko",
    ]


def test_a_driver_that_the_kernel_lacks_is_an_error(tmp_path: Path) -> None:
    system(tmp_path)
    with pytest.raises(HyperscalerError, match=r"kernel 6\.1 has no driver 'nvme'"):
        load_order(tmp_path, kernel_version="6.1", modules=["nvme"])


def test_the_image_is_equal_for_equal_contents(tmp_path: Path) -> None:
    system(tmp_path)
    init = tmp_path / "init"
    init.write_text("#!/bin/busybox sh\n")
    with pytest.raises(HyperscalerError, match="no static busybox"):
        build_initrd(tmp_path, kernel_version="6.1", init=init, modules=[])
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "busybox").write_bytes(b"busybox")
    first = build_initrd(tmp_path, kernel_version="6.1", init=init, modules=["virtio_pci"])
    init.touch()
    assert build_initrd(tmp_path, kernel_version="6.1", init=init, modules=["virtio_pci"]) == first
    members = unpack(first)
    assert members["init"] == (stat.S_IFREG | 0o755, b"#!/bin/busybox sh\n")
    assert [name for name in members if name.startswith("modules/")] == [
        "modules/00-ring.ko",
        "modules/01-virtio.ko",
        "modules/02-virtio_pci.ko",
    ]
    assert stat.S_ISCHR(members["dev/console"][0])


def test_drivers_that_the_kernels_package_has_compressed_are_unpacked(tmp_path: Path) -> None:
    """busybox cannot: a guest of Debian 13 would not find its disk."""
    base = system(tmp_path)
    for path in (base / "k").iterdir():
        path.with_name(f"{path.name}.xz").write_bytes(lzma.compress(path.read_bytes()))
        path.unlink()
    listing = base / "modules.dep"
    listing.write_text(listing.read_text().replace(".ko", ".ko.xz"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "busybox").write_bytes(b"busybox")
    (tmp_path / "init").write_text("#!/bin/busybox sh\n")
    archive = build_initrd(
        tmp_path, kernel_version="6.1", init=tmp_path / "init", modules=["virtio_pci", "ext4", "virtio_rng"]
    )
    drivers = {name: data for name, (_, data) in unpack(archive).items() if name.startswith("modules/")}
    assert drivers == {
        "modules/00-ring.ko": b"ring",
        "modules/01-virtio.ko": b"virtio",
        "modules/02-virtio_pci.ko": b"virtio_pci",
        "modules/03-virtio-rng.ko": b"virtio-rng",
    }
    damaged = base / "k" / "ring.ko.xz"
    damaged.write_bytes(b"no xz")
    with pytest.raises(HyperscalerError, match="the driver cannot be unpacked") as caught:
        build_initrd(tmp_path, kernel_version="6.1", init=tmp_path / "init", modules=["virtio_pci"])
    assert caught.value.where == str(damaged)
