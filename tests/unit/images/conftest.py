"""A host on which the build tools are data: what they would write is written, and each call is recorded."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from emulator.core.errors import CommandError
from emulator.core.ports import Completed
from emulator.images.build import builder
from emulator.images.build.builder import OWN_MOUNTS
from emulator.images.store.store import ImageStore

COMMON = """\
version: 1
suite: bookworm
kernel: linux-image-cloud-amd64
packages: [systemd, udev]
files: [files/common]
remove: [/etc/ssh/ssh_host_*]
mask: [apt-daily.timer]
initrd: {init: files/init, modules: [virtio_blk, ext4]}
cmdline: [root=/dev/vda, rw]
"""
DEMO = """\
version: 1
name: demo
extends: common
packages: [munge]
disable: [munge.service]
"""


class BuildTools:
    """`ProcessRunner` for the builder. `fail` names a tool that fails, `interrupt` one during which the user stops."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.env: list[Mapping[str, str]] = []
        self.payload = b"file system"
        self.fail = ""
        self.interrupt = ""
        self.targets = ""
        self.apt_config = ""
        self.seen_files: dict[str, str] = {}
        self.seen_modes: dict[str, int] = {}
        self.seen_group = -1

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout: float,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        words = tuple(str(word) for word in argv)
        if words[: len(OWN_MOUNTS)] == OWN_MOUNTS:
            words = words[len(OWN_MOUNTS) :]
        self.calls.append(words)
        if words[0] == self.interrupt:
            raise KeyboardInterrupt
        if on_line is not None:
            on_line(f"{words[0]} says hello")
        if words[0] == self.fail:
            raise CommandError("exit status 1", where=" ".join(words))
        known = {
            "apt-get": lambda: self.targets,
            "apt-config": lambda: self.apt_config,
            "mmdebstrap": lambda: self._mmdebstrap(words),
            "mke2fs": lambda: self._mke2fs(words),
            "qemu-img": lambda: self._qemu_img(words),
            "dpkg-query": lambda: "munge\t0.5.15-2\tamd64\tmunge\t0.5.15-2\tA Person <a@example.org>\n",
        }
        return Completed(words, 0, known[words[0]](), "")

    def _mmdebstrap(self, words: tuple[str, ...]) -> str:
        if words[1] == "--version":
            return "mmdebstrap 1.3.5\n"
        for word in words:
            path = Path(word.partition("=")[2] or word)
            if path.name in ("apt.conf", "sources.list", "finish"):
                self.seen_files[path.name] = path.read_text(encoding="utf-8")
                self.seen_modes[path.name] = stat.S_IMODE(path.stat().st_mode)
        work = next(path for path in Path(words[-1]).parents if path.name.startswith(".work-"))
        self.seen_group = work.stat().st_gid
        self.seen_modes |= {
            "work": stat.S_IMODE(work.stat().st_mode),
            "build.log": stat.S_IMODE((work / "image" / "build.log").stat().st_mode),
        }
        root = next(Path(word) for word in words if word.endswith("/root"))
        for relative, content in (
            ("boot/vmlinuz-6.1.0-test", b"kernel"),
            ("bin/busybox", b"busybox"),
            ("usr/lib/modules/6.1.0-test/kernel/a/virtio.ko", b"virtio"),
            ("usr/lib/modules/6.1.0-test/kernel/a/virtio_blk.ko", b"virtio_blk"),
            ("usr/lib/modules/6.1.0-test/modules.builtin", b"kernel/fs/ext4/ext4.ko\n"),
            (
                "usr/lib/modules/6.1.0-test/modules.dep",
                b"kernel/a/virtio.ko:\nkernel/a/virtio_blk.ko: kernel/a/virtio.ko\n",
            ),
        ):
            (root / relative).parent.mkdir(parents=True, exist_ok=True)
            (root / relative).write_bytes(content)
        return ""

    def _mke2fs(self, words: tuple[str, ...]) -> str:
        if words[1] != "-V":
            Path(words[-1]).write_bytes(self.payload)
        return "mke2fs 1.47.0\n"

    def _qemu_img(self, words: tuple[str, ...]) -> str:
        if words[1] == "convert":
            Path(words[-1]).write_bytes(b"qcow2 of " + Path(words[-2]).read_bytes())
        return "qemu-img version 7.2.22\n"


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A directory with the recipes `common` and `demo`."""
    directory = tmp_path / "recipes"
    (directory / "files" / "common" / "etc").mkdir(parents=True)
    (directory / "files" / "common" / "etc" / "fstab").write_text("/dev/vda / ext4 rw 0 0\n")
    (directory / "files" / "init").write_text("#!/bin/busybox sh\n")
    (directory / "common.yaml").write_text(COMMON)
    (directory / "demo.yaml").write_text(DEMO)
    return directory


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> BuildTools:
    """The tools of a host on which the test is root."""
    monkeypatch.setattr(builder.os, "geteuid", lambda: 0)
    return BuildTools()


@pytest.fixture
def store(tmp_path: Path, recipes: Path, tools: BuildTools) -> ImageStore:
    return ImageStore(tmp_path / "images", tools, recipes=recipes)
