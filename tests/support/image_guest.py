"""A golden image on a real QEMU, without libvirt."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emulator.guests.ssh import host_keys_from_console
from emulator.images.store.golden_image import GoldenImage
from emulator.labfile.model import ADMIN

BOOT_SECONDS = 300.0
MACHINE_ID = "5f0c1d3e9a7b4c62b8d4e6f70a1b2c3d"
DISK_GIB = 6


class ImageGuest:
    """A guest on QEMU's user network, emulated, with its ssh port on the host's loopback."""

    def __init__(self, image: GoldenImage, directory: Path) -> None:
        self.image = image
        self.directory = directory
        self.console = directory / "console.log"
        self.key = directory / "id"
        self.known_hosts = directory / "known_hosts"
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self.disk = directory / "disk.qcow2"
        backing: list[str | Path] = ["-b", image.disk, "-F", "qcow2"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, self.disk, f"{DISK_GIB}G"], check=True)

    def boot(self, *arguments: str) -> str:
        """Start with more `arguments` of the kernel, and wait until the console has told the host key; returns it."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        public = base64.b64encode(self.key.with_suffix(".pub").read_bytes().strip()).decode()
        own = ["systemd.hostname=hpc-compute-7", f"systemd.machine_id={MACHINE_ID}"]
        self.console.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "1", "-m", "1024"),
                *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                *("-drive", f"file={self.disk},if=none,id=disk", "-device", "virtio-blk-pci,drive=disk"),
                *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22"),
                *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
                *("-serial", f"file:{self.console}"),
                *("-qmp", f"unix:{self.directory / 'qmp'},server=on,wait=off"),
                "-smbios",
                f"type=11,value=io.systemd.credential.binary:lab.authorized_key={public}",
                *("-kernel", self.image.kernel, "-initrd", self.image.initrd),
                *("-append", " ".join((*self.image.manifest.cmdline, *own, *arguments))),
            ]
        )
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            assert self.process.poll() is None, f"QEMU ended: {self.text()}"
            keys = host_keys_from_console(self.text())
            if keys:
                self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {keys[0]}\n")
                return keys[0]
            time.sleep(0.2)
        raise AssertionError(f"no host key on the console: {self.text()[-2000:]}")

    def text(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def ssh(
        self, command: str, *options: str, user: str = ADMIN, key: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        fixed = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityFile": str(key or self.key),
            "UserKnownHostsFile": str(self.known_hosts),
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": "30",
            "LogLevel": "ERROR",
        }
        settings = [word for name, value in fixed.items() for word in ("-o", f"{name}={value}")]
        argv = ["ssh", "-F", "none", *options, *settings, "-p", str(self.port), f"{user}@127.0.0.1", command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)

    def wait_for_ssh(self) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while (done := self.ssh("true")).returncode != 0:
            assert time.monotonic() < deadline, done.stderr
            time.sleep(0.5)

    def output(self, command: str) -> str:
        done = self.ssh(command)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout.strip()

    def press_power_button(self) -> None:
        with self._monitor("system_powerdown"):
            assert self.process is not None
            assert self.process.wait(timeout=120) == 0

    def pause(self, seconds: float) -> None:
        """Stop the virtual CPUs for so long, as a snapshot or `virsh suspend` does."""
        with self._monitor("stop"):
            time.sleep(seconds)
        with self._monitor("cont"):
            pass

    @contextmanager
    def _monitor(self, command: str) -> Iterator[None]:
        """Have QEMU's monitor carry out a command and hold the connection open."""
        with socket.socket(socket.AF_UNIX) as qmp:
            qmp.connect(str(self.directory / "qmp"))
            with qmp.makefile("rw", encoding="utf-8") as stream:
                stream.readline()  # the greeting
                for words in ("qmp_capabilities", command):
                    stream.write(json.dumps({"execute": words}) + "\n")
                    stream.flush()
                    answer = next(line for line in stream if '"event"' not in line)
                    assert '"return"' in answer, (words, answer)
                yield

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
