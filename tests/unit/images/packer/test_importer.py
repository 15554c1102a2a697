"""A disk from a virtual machine becomes an image: real file systems, partitions and tools, no virtual machine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.core.errors import ConflictError, HyperscalerError
from emulator.core.ports import Completed
from emulator.images.build.builder import BuildPhase
from emulator.images.build.guest_tree import GuestTree, accounts_with_password
from emulator.images.build.input_version import record_path
from emulator.images.packer.record import record_of
from emulator.images.recipe import load_recipe
from emulator.images.store.golden_image import GoldenImage
from emulator.images.store.store import ImageStore

KERNEL = "6.1.0-test"
STATUS = "".join(
    f"Package: {name}\nStatus: install ok installed\nMaintainer: A <a@example.org>\nArchitecture: amd64\n"
    f"Version: 1.0-{number}\n\n"
    for number, name in enumerate(("linux-image-cloud-amd64", "systemd", "udev", "munge"))
)
REMOVED = "Package: gone\nStatus: deinstall ok config-files\nMaintainer: A\nArchitecture: all\nVersion: 1\n\n"


def quiet(phase: BuildPhase, line: str) -> None:
    """Progress of nobody."""


def run(*argv: object) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a finished Debian looks like, as far as the import looks."""
    root = tmp_path / "guest"
    files = {
        f"boot/vmlinuz-{KERNEL}": "kernel",
        "usr/bin/busybox": "busybox",
        f"usr/lib/modules/{KERNEL}/modules.builtin": "kernel/fs/ext4/ext4.ko\n",
        f"usr/lib/modules/{KERNEL}/modules.dep": "kernel/a/virtio.ko:\nkernel/a/virtio_blk.ko: kernel/a/virtio.ko\n",
        f"usr/lib/modules/{KERNEL}/kernel/a/virtio.ko": "virtio",
        f"usr/lib/modules/{KERNEL}/kernel/a/virtio_blk.ko": "virtio_blk",
        "var/lib/dpkg/status": STATUS + REMOVED,
        "etc/machine-id": "",
        "etc/shadow": "root:*:1:0:99999:7:::\ndaemon:!:1:0:99999:7:::\n",
        "etc/ssh/sshd_config": "",
        "var/tmp/.keep": "",
        "root/.profile": "",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def disk_of(tree: Path, path: Path, *, partition: bool = False) -> Path:
    """A qcow2 of 128 MiB with the tree on it."""
    raw = path.with_suffix(".raw")
    filesystem = path.with_suffix(".ext4")
    run("truncate", "-s", "120M", filesystem)
    run("mke2fs", "-q", "-t", "ext4", "-d", tree, filesystem)
    if partition:
        run("truncate", "-s", "128M", raw)
        subprocess.run(["sfdisk", "-q", raw], input=b"label: dos\nstart=2048, size=245760, type=83\n", check=True)
        run("dd", f"if={filesystem}", f"of={raw}", "bs=1M", "seek=1", "conv=notrunc,sparse")
    else:
        filesystem.rename(raw)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path)
    raw.unlink()
    return path


@pytest.fixture
def real(tmp_path: Path, recipes: Path) -> ImageStore:
    return ImageStore(tmp_path / "images", HostProcess(), recipes=recipes)


def take(store: ImageStore, disk: Path, recipes: Path) -> GoldenImage:
    record = record_of(load_recipe("demo", recipes), {})
    return store.import_disk(disk, record, made_by={"packer": "1.6.6"}, progress=quiet)


@pytest.mark.parametrize("partition", [False, True])
def test_a_finished_disk_becomes_the_current_image(
    real: ImageStore, recipes: Path, tree: Path, tmp_path: Path, *, partition: bool
) -> None:
    image = take(real, disk_of(tree, tmp_path / "d.qcow2", partition=partition), recipes)
    assert real.current("demo") == image
    assert real.needs_build("demo") is None, "it counts as built from the recipe"
    assert real.verify(image) == []
    manifest = image.manifest
    assert (manifest.kernel_version, manifest.architecture) == (KERNEL, "amd64")
    assert manifest.packages == {
        "linux-image-cloud-amd64": "1.0-0",
        "munge": "1.0-3",
        "systemd": "1.0-1",
        "udev": "1.0-2",
    }
    assert manifest.tools["packer"] == "1.6.6"
    assert image.kernel.read_text() == "kernel"
    archive = image.initrd.read_bytes()
    assert archive.index(b"modules/00-virtio.ko") < archive.index(b"modules/01-virtio_blk.ko")
    # One file system on the whole disk, with the label, the free space and the sane journal of a fast build.
    raw = tmp_path / "out.raw"
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image.disk, raw)
    assert raw.stat().st_size == manifest.virtual_size
    assert manifest.virtual_size % (64 << 20) == 0 and manifest.virtual_size >= (256 + 64) << 20
    run("e2fsck", "-f", "-n", raw)
    guest = GuestTree(raw, tmp_path / "fetched", HostProcess())
    assert guest.fetch("/etc/shadow").read_text().startswith("root:*")
    header = subprocess.run(["dumpe2fs", "-h", raw], capture_output=True, text=True, check=True).stdout
    assert "Filesystem volume name:   root" in header


@pytest.mark.parametrize("given", [True, False])
def test_the_version_of_an_input_is_read_from_the_disk(
    real: ImageStore, recipes: Path, tree: Path, tmp_path: Path, *, given: bool
) -> None:
    (recipes / "demo.yaml").write_text("version: 1\nextends: common\npackages: [munge]\ninputs: [binaries]\n")
    if given:
        (tree / "usr" / "lib" / "hyperscaler").mkdir(parents=True)
        (tree / record_path("binaries")).write_text('{"version": "1.31.4"}')
    image = take(real, disk_of(tree, tmp_path / "d.qcow2"), recipes)
    assert image.versions == ({"binaries": "1.31.4"} if given else {})


def test_what_was_deleted_is_not_in_the_image(real: ImageStore, recipes: Path, tree: Path, tmp_path: Path) -> None:
    secret = b"PRIVATE-KEY-OF-THE-BUILD"
    (tree / "root" / "key").write_bytes(secret * 4096)
    disk = disk_of(tree, tmp_path / "d.qcow2")
    raw = tmp_path / "edit.raw"
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, raw)
    run("debugfs", "-w", "-R", "rm /root/key", raw)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk)
    assert secret in raw.read_bytes(), "the deleted content is still in a free block of the disk"
    image = take(real, disk, recipes)
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image.disk, raw)
    assert secret not in raw.read_bytes()


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("etc/machine-id", "0123\n", "machine-id is not empty"),
        ("etc/ssh/ssh_host_ed25519_key", "x", "every guest would have the same host key"),
        ("root/.ssh/authorized_keys", "x", "could log in everywhere"),
        ("etc/ssh/lab_keys/labadmin", "x", "/etc/ssh/lab_keys/labadmin is in it"),
        ("home/admin/.ssh/authorized_keys", "x", "/home/admin/.ssh/authorized_keys is in it"),
        ("etc/shadow", "root::1::::::\n", "root has a password"),
        ("var/lib/dpkg/status", STATUS.replace("Package: munge", "Package: other"), "munge is not installed"),
        ("var/tmp/hyperscaler-image/install", "x", "it did not end"),
        ("boot/vmlinuz-6.2.0-other", "x", "expected one kernel in the image, found 2"),
        (f"usr/lib/modules/{KERNEL}/modules.dep", "kernel/../../../etc/passwd.ko:\n", "no driver of the kernel"),
    ],
)
def test_an_unfinished_or_unsafe_system_is_refused(
    real: ImageStore, recipes: Path, tree: Path, tmp_path: Path, path: str, text: str, message: str
) -> None:
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_text(text)
    with pytest.raises(HyperscalerError, match=message):
        take(real, disk_of(tree, tmp_path / "d.qcow2"), recipes)
    assert real.current("demo") is None
    assert sorted(p.name for p in (real.root / "demo").iterdir()) == [".lock", "failed.log"]


def test_a_link_in_the_disk_leads_nowhere_on_this_host(
    real: ImageStore, recipes: Path, tree: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("of this host")
    (tree / "boot" / f"vmlinuz-{KERNEL}").unlink()
    (tree / "boot" / f"vmlinuz-{KERNEL}").symlink_to(mine)
    with pytest.raises(HyperscalerError, match=f"the image has no file /boot/vmlinuz-{KERNEL}"):
        take(real, disk_of(tree, tmp_path / "d.qcow2"), recipes)


def test_a_disk_that_refers_to_another_file_is_refused(
    real: ImageStore, recipes: Path, tree: Path, tmp_path: Path
) -> None:
    disk = disk_of(tree, tmp_path / "d.qcow2")
    overlay = tmp_path / "overlay.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk, "-F", "qcow2", overlay)
    with pytest.raises(HyperscalerError, match="refers to other files"):
        take(real, overlay, recipes)


def test_what_was_checked_is_what_is_converted(recipes: Path, tree: Path, tmp_path: Path) -> None:
    """Whoever owns the disk puts one that reads a file of this host in its place, right after the check."""
    disk = disk_of(tree, tmp_path / "d.qcow2")
    (tree / "usr/bin/busybox").write_text("of another disk")
    other = disk_of(tree, tmp_path / "other.qcow2")
    overlay = tmp_path / "overlay.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", other, "-F", "qcow2", overlay)

    class Swapping(HostProcess):
        def run(self, argv: Sequence[str | Path], **options: Any) -> Completed:
            done = super().run(argv, **options)
            if list(argv[:2]) == ["qemu-img", "info"] and overlay.exists():
                overlay.replace(disk)
            return done

    image = take(ImageStore(tmp_path / "images", Swapping(), recipes=recipes), disk, recipes)
    assert not overlay.exists(), "it was swapped"
    assert b"of another disk" not in image.initrd.read_bytes()


def test_a_disk_without_room_for_it_is_refused_before_it_is_read(
    real: ImageStore, recipes: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disk_of(tree, tmp_path / "d.qcow2")
    monkeypatch.setattr("emulator.images.packer.importer.shutil.disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(HyperscalerError, match=r"importing the disk takes \d+ MiB, and 1 MiB are free") as caught:
        take(real, disk, recipes)
    assert caught.value.where == str(real.root / "demo")


def test_what_is_no_file_is_refused(real: ImageStore, recipes: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "d.qcow2"
    os.mkfifo(pipe)
    with pytest.raises(HyperscalerError, match="no ordinary file"):
        take(real, pipe, recipes)


def test_two_partitions_are_refused(real: ImageStore, recipes: Path, tmp_path: Path) -> None:
    raw, disk = tmp_path / "d.raw", tmp_path / "d.qcow2"
    run("truncate", "-s", "64M", raw)
    subprocess.run(["sfdisk", "-q", raw], input=b"label: dos\nsize=8M\nsize=8M\n", check=True)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk)
    with pytest.raises(HyperscalerError, match="expected one partition on the disk, found 2"):
        take(real, disk, recipes)


def test_a_disk_of_an_older_recipe_is_refused(real: ImageStore, recipes: Path, tree: Path, tmp_path: Path) -> None:
    record = record_of(load_recipe("demo", recipes), {})
    (recipes / "files" / "common" / "etc" / "fstab").write_text("changed since\n")
    disk = disk_of(tree, tmp_path / "d.qcow2")
    with pytest.raises(ConflictError, match="has changed since Packer's files were written"):
        real.import_disk(disk, record, made_by={}, progress=quiet)


def test_a_failed_import_leaves_the_image_before_it(
    real: ImageStore, recipes: Path, tree: Path, tmp_path: Path
) -> None:
    image = take(real, disk_of(tree, tmp_path / "d.qcow2"), recipes)
    (tree / "etc" / "machine-id").write_text("x")
    with pytest.raises(HyperscalerError):
        take(real, disk_of(tree, tmp_path / "e.qcow2"), recipes)
    assert real.current("demo") == image
    assert real.verify(image) == []


def test_accounts_with_a_password() -> None:
    text = "root:!*:1\nempty::1\nlocked:!$y$x:1\nstar:*:1\nhash:$y$j9T$x:1\nshort\n"
    assert accounts_with_password(text) == ["empty", "hash", "short"]


def test_the_record_beside_packers_files(tmp_path: Path, recipes: Path) -> None:
    from emulator.core.errors import StateError, UsageError
    from emulator.images.packer.record import read_record

    record = record_of(load_recipe("demo", recipes), {"binaries": recipes})
    path = tmp_path / "image.json"
    with pytest.raises(UsageError, match="no directory of a Packer build"):
        read_record(tmp_path)
    path.write_text(record.to_json())
    assert read_record(tmp_path) == record
    assert record.input_bytes > 0
    # As versions wrote it that did not know how large the inputs are.
    path.write_text(record.to_json().replace('"input_bytes"', '"other"'))
    assert read_record(tmp_path) == dataclasses.replace(record, input_bytes=0)
    for text in (
        "",
        "[]",
        "{}",
        json.dumps({"version": 2}),
        record.to_json().replace("binaries", "../x"),
        record.to_json().replace('{\n  "binaries"', '["'),
        dataclasses.replace(record, input_bytes=-1).to_json(),
        record.to_json().replace(f'"input_bytes": {record.input_bytes}', '"input_bytes": true'),
    ):
        path.write_text(text)
        with pytest.raises(StateError, match="cannot be read"):
            read_record(tmp_path)
