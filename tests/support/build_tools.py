"""The programs that an image is built with, as data: what each would write is written, and each call is recorded."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

from emulator.images.build.builder import OWN_MOUNTS
from tests.support.fake_runner import Call, FakeRunner, Say


class BuildTools(FakeRunner):
    """The programs of the builder. `fail` names one that fails, `interrupt` one during which the user stops."""

    def __init__(self) -> None:
        super().__init__()
        self.within(*OWN_MOUNTS)
        self.payload = b"file system"
        self.fail = ""
        self.interrupt = ""
        self.targets = ""
        self.apt_config = ""
        self.seen_files: dict[str, str] = {}
        self.seen_modes: dict[str, int] = {}
        self.seen_group = -1
        self.on("apt-get", lambda _call: self.targets)
        self.on("apt-config", lambda _call: self.apt_config)
        self.on("mmdebstrap", lambda call: self._mmdebstrap(call.argv))
        self.on("mke2fs", lambda call: self._mke2fs(call.argv))
        self.on("tune2fs", "")
        self.on("qemu-img", lambda call: self._qemu_img(call.argv))
        self.on("dpkg-query", "munge\t0.5.15-2\tamd64\tmunge\t0.5.15-2\tA Person <a@example.org>\n")

    def reply(self, call: Call) -> Say:
        if call.argv[0] == self.interrupt:
            raise KeyboardInterrupt
        failed = call.argv[0] == self.fail
        said = Say(status=1) if failed else super().reply(call)
        return dataclasses.replace(said, stderr=f"{call.argv[0]} says hello\n")

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
