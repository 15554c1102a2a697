"""The programs that change a host, played over a tree: each does to the files what the real one does."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from emulator.core.errors import CommandError
from tests.support.fake_runner import Call, FakeRunner, Say


class HostTools(FakeRunner):
    """The programs over the host in `root`. Those named in `broken` fail; update-grub leaves half a file then."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.broken: dict[str, str] = {}

    def reply(self, call: Call) -> Say:
        program, *words = call.argv
        if program in self.broken:
            if program == "update-grub":
                self._edit("/boot/grub/grub.cfg.new", lambda _: "half of it\n")
            return Say(stderr=self.broken[program], status=100)
        # Looked up at each call: a test may put another program in its place.
        getattr(self, "_" + program.replace("-", "_"))(*words)
        return Say()

    def _path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _edit(self, path: str, change: Callable[[str], str]) -> None:
        file = self._path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        # Written anew, as these programs do: another inode, another time.
        fresh = file.with_name(file.name + "+")
        fresh.write_text(change(file.read_text() if file.exists() else ""))
        fresh.replace(file)

    def _keep(self, path: str, text: str) -> None:
        self._edit(path, lambda _: text)

    def _apt_get(self, verb: str, *words: str) -> None:
        if verb == "install":
            names = [word for word in words if not word.startswith("-")]
            added = "".join(f"\nPackage: {name}\nStatus: install ok installed\nPriority: optional\n" for name in names)
            self._edit("/var/lib/dpkg/status", lambda text: text + added)

    def _dpkg(self, *words: str) -> None:
        assert words == ("--configure", "-a")
        self._edit("/var/lib/dpkg/status", lambda text: text.replace("install ok unpacked", "install ok installed"))

    def _usermod(self, *words: str) -> None:
        groups, user = words[2].split(","), words[3]
        for path in ("/etc/group", "/etc/gshadow"):
            self._keep(f"{path}-", self._path(path).read_text())
            self._edit(path, lambda text: _joined(text, groups, user))
        self._edit("/etc/.pwd.lock", lambda text: text)

    def _gpasswd(self, _option: str, user: str, group: str) -> None:
        for path in ("/etc/group", "/etc/gshadow"):
            self._edit(path, lambda text: re.sub(rf"^({group}:.*[:,]){user}$", r"\1", text, flags=re.MULTILINE))

    def _sysctl(self, *words: str) -> None:
        key, _, value = words[-1].partition("=")
        self._edit("/proc/sys/" + key.replace(".", "/"), lambda _: value + "\n")

    def _modprobe(self, name: str) -> None:
        tables = self.root.glob("lib/modules/*/modules.dep")
        if not any(f"/{name}.ko" in table.read_text().replace("-", "_") for table in tables):
            raise CommandError(f"modprobe: FATAL: Module {name} not found in directory /lib/modules/6.1.0-44-amd64")
        self._edit("/proc/modules", lambda text: f"{text}{name} 16384 0 - Live 0x0\n")
        devices = {"kvm_intel": "/dev/kvm", "vhost_net": "/dev/vhost-net", "tun": "/dev/net/tun"}
        if name in devices:
            self._edit(devices[name], lambda _: "usable")

    def _systemctl(self, verb: str, *words: str) -> None:
        unit = words[-1]
        link = self._path(f"/etc/systemd/system/sysinit.target.wants/{unit}")
        process = self._path("/proc/4321")
        if verb == "enable":
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(f"/usr/lib/systemd/system/{unit}")
            self._edit("/proc/4321/comm", lambda _: unit[:15] + "\n")
        else:
            if verb == "disable":
                link.unlink(missing_ok=True)
                if link.parent.is_dir() and not any(link.parent.iterdir()):
                    link.parent.rmdir()
            (process / "comm").unlink(missing_ok=True)

    def _update_initramfs(self, *_words: str) -> None:
        files = sorted(path.name for path in self._path("/etc/modprobe.d").glob("*.conf"))
        self._edit("/boot/initrd.img", lambda _: f"modprobe.d: {' '.join(files)}\n")

    def _update_grub(self) -> None:
        arguments = ["quiet"]
        for path in sorted(self._path("/etc/default/grub.d").glob("*.cfg")):
            arguments += re.findall(r"DEFAULT (.*)\"$", path.read_text(), re.MULTILINE)
        self._path("/boot/grub/grub.cfg.new").unlink(missing_ok=True)
        self._edit("/boot/grub/grub.cfg", lambda _: f"linux /boot/vmlinuz ro {' '.join(arguments)}\n")


def _joined(text: str, groups: Sequence[str], user: str) -> str:
    lines = []
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        members = rest.rpartition(":")[2].split(",") if rest.rpartition(":")[2] else []
        if name in groups and user not in members:
            line += f",{user}" if members else user
        lines.append(line + "\n")
    return "".join(lines)


def tree(root: Path, *parts: str) -> dict[str, tuple[int, str]]:
    """Every file, directory and link below `parts` of `root`, with mode and content."""
    found = {}
    for part in parts:
        for path in sorted((root / part).rglob("*")):
            text = "" if path.is_dir() or path.is_symlink() else path.read_text()
            content = f"-> {path.readlink()}" if path.is_symlink() else text
            found[str(path.relative_to(root))] = (path.lstat().st_mode, content)
    return found
