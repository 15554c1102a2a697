"""Inputs of an image arrive as they are: unpacked again as mmdebstrap does it, and told apart by their digest."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.core.errors import HyperscalerError
from emulator.images.build.input_tree import described, input_digest
from emulator.images.build.overlay import write_overlay
from emulator.images.build.tree_size import used_bytes

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="foreign owners and devices are root's to make")

# struct vfs_cap_data, revision 2: CAP_NET_RAW permitted and effective.
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
# What mmdebstrap's `tar-in` runs (hookhelper in /usr/bin/mmdebstrap).
TAR_IN = ("tar", "--numeric-owner", "--xattrs", "--format=pax", "--xattrs-include=*", "--extract", "--file", "-")
NOT_UTF8 = os.fsdecode(b"not-utf8-\xff")


def attributes(path: Path) -> dict[str, bytes]:
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
        if name != "security.selinux"
    }


@pytest.fixture
def layers(disk_path: Path) -> Path:
    """Two layers as overlayfs keeps them, laid out under a narrow umask."""
    tree = disk_path / "layers"
    before = os.umask(0o077)
    try:
        lower, upper = tree / "1/fs", tree / "2/fs"
        for directory in (lower / "bin", lower / "tmp", lower / "srv", upper / "srv"):
            directory.mkdir(parents=True)
        (lower / "tmp").chmod(0o1777)
        (lower / "bin/busybox").write_bytes(b"program" * 1000)
        for applet in ("ls", "su"):
            os.link(lower / "bin/busybox", lower / "bin" / applet)
        (lower / "bin/su").chmod(0o4755)
        (lower / "bin/sh").symlink_to("/bin/busybox")
        os.link(lower / "bin/sh", lower / "bin/ash", follow_symlinks=False)
        (lower / "srv/mine").write_text("content")
        os.chown(lower / "srv/mine", 33, 999)
        os.chown(lower / "srv", 3_000_000, 101)
        (lower / "srv").chmod(0o2750)
        (lower / "bin/ping").write_text("ping")
        (lower / "bin/ping").chmod(0o755)
        os.setxattr(lower / "bin/ping", "security.capability", CAPABILITY)
        os.setxattr(lower / "bin/ping", "user.a=b%", b"\xff\n\0")
        (lower / NOT_UTF8).write_text("a name")
        os.mkfifo(lower / "pipe")
        os.mknod(upper / "gone", stat.S_IFCHR, os.makedev(0, 0))
        os.setxattr(upper / "srv", "trusted.overlay.opaque", b"y")
        os.utime(lower / "srv/mine", (1_600_000_000, 1_600_000_000.25))
    finally:
        os.umask(before)
    return tree


def unpacked(tree: Path, archive: Path, target: Path) -> Path:
    write_overlay(archive, [], [tree])
    target.mkdir()
    with archive.open("rb") as stream:
        subprocess.run(
            [*TAR_IN, "--directory", target], stdin=stream, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
        )
    return target


@root_only
def test_an_input_arrives_as_it_is(layers: Path, disk_path: Path) -> None:
    there = unpacked(layers, disk_path / "overlay.tar", disk_path / "root")
    names = sorted(path.relative_to(layers) for path in layers.rglob("*"))
    assert sorted(path.relative_to(there) for path in there.rglob("*")) == names
    for name in names:
        mine, arrived = (layers / name).lstat(), (there / name).lstat()
        what = ("st_mode", "st_uid", "st_gid", "st_rdev")
        assert [getattr(arrived, item) for item in what] == [getattr(mine, item) for item in what], name
        assert attributes(there / name) == attributes(layers / name), name
        if stat.S_ISREG(mine.st_mode):
            assert (there / name).read_bytes() == (layers / name).read_bytes()
        if stat.S_ISLNK(mine.st_mode):
            assert (there / name).readlink() == (layers / name).readlink()
    lower = there / "1/fs"
    assert len({(lower / "bin" / name).stat().st_ino for name in ("busybox", "ls", "su")}) == 1
    assert stat.S_IMODE((lower / "bin/su").stat().st_mode) == 0o4755
    assert attributes(lower / "bin/ping")["security.capability"] == CAPABILITY
    assert (lower / "srv/mine").stat().st_mtime == 1_600_000_000
    assert there.joinpath("1").stat().st_mtime == 0, "a young /usr would have systemd make its caches anew"
    assert input_digest(there) == input_digest(layers)


@root_only
def test_the_file_system_of_an_image_keeps_an_input(layers: Path, disk_path: Path) -> None:
    """The builder's way from the tree to the disk, asked of the real tool."""
    there = unpacked(layers, disk_path / "overlay.tar", disk_path / "root")
    disk = disk_path / "disk.raw"
    with disk.open("wb") as stream:
        stream.truncate(32 << 20)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", there, disk], check=True)

    def asked(command: str) -> str:
        return subprocess.run(["debugfs", "-R", command, disk], check=True, capture_output=True, text=True).stdout

    su, gone = asked("stat /1/fs/bin/su"), asked("stat /2/fs/gone")
    assert "Mode:  04755" in su
    assert "Links: 3" in su
    assert "Type: character special" in gone
    assert "major/minor number: 00:00" in gone
    assert "Mode:  01777" in asked("stat /1/fs/tmp")
    mine = asked("stat /1/fs/srv/mine").split()
    assert (mine[mine.index("User:") + 1], mine[mine.index("Group:") + 1]) == ("33", "999")
    assert "security.capability (20)" in asked("ea_list /1/fs/bin/ping")
    assert "trusted.overlay.opaque (1)" in asked("ea_list /2/fs/srv")


def unlink_and_copy(path: Path) -> None:
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o4755)


def another_device(path: Path) -> None:
    path.unlink()
    os.mknod(path, stat.S_IFCHR, 1)


def another_target(path: Path) -> None:
    path.unlink()
    path.symlink_to("busybox")


CHANGES: dict[str, Callable[[Path], object]] = {
    "an owner": lambda tree: os.chown(tree / "1/fs/srv/mine", 34, 999),
    "a group": lambda tree: os.chown(tree / "1/fs/srv/mine", 33, 998),
    "a sticky bit": lambda tree: (tree / "1/fs/tmp").chmod(0o777),
    "a write bit": lambda tree: (tree / "1/fs/srv/mine").chmod(0o620),
    "a capability": lambda tree: os.removexattr(tree / "1/fs/bin/ping", "security.capability"),
    "an attribute's value": lambda tree: os.setxattr(tree / "1/fs/bin/ping", "user.a=b%", b"other"),
    "a hard link": lambda tree: unlink_and_copy(tree / "1/fs/bin/ls"),
    "a device": lambda tree: another_device(tree / "2/fs/gone"),
    "a content": lambda tree: (tree / "1/fs/bin/ping").write_text("pong"),
    "a link's target": lambda tree: another_target(tree / "1/fs/bin/sh"),
}


@root_only
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_digest_follows_what_an_image_keeps(layers: Path, change: Callable[[Path], object]) -> None:
    before = input_digest(layers)
    change(layers)
    assert input_digest(layers) != before


@root_only
def test_the_digest_follows_neither_place_nor_times_nor_links_from_elsewhere(layers: Path, disk_path: Path) -> None:
    before = input_digest(layers)
    os.utime(layers / "1/fs/srv/mine", (1, 1))
    os.link(layers / "1/fs/srv/mine", disk_path / "beside")
    assert input_digest(layers.rename(disk_path / "moved")) == before


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    monkeypatch.chdir(tree)  # addresses of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("left")
        with pytest.raises(HyperscalerError, match="a socket cannot be laid") as caught:
            input_digest(tree)
    assert caught.value.where == str(tree / "left")


def test_the_size_counts_each_inode_once(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a").write_bytes(b"x" * 5000)
    alone = used_bytes(tree)
    assert alone == 4096 + 8192
    os.link(tree / "a", tree / "b")
    assert used_bytes(tree) == alone
    laid = described({"one": tree})
    assert (laid.size, laid.digests) == (alone, {"one": input_digest(tree)})
