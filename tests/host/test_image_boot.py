"""A golden image on a real QEMU, without libvirt: the contract between a guest and its host."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.adapters.process import HostProcess
from emulator.adapters.ssh_shell import host_keys_from_console
from emulator.images.store import GoldenImage, ImageStore
from emulator.paths import Home

pytestmark = pytest.mark.host

BOOT_SECONDS = 300.0
MACHINE_ID = "5f0c1d3e9a7b4c62b8d4e6f70a1b2c3d"
DISK_GIB = 6


@pytest.fixture(scope="module")
def image() -> GoldenImage:
    if os.geteuid() != 0 or shutil.which("qemu-system-x86_64") is None:
        pytest.skip("needs root and qemu-system-x86_64")
    store = ImageStore(Home.default().images, HostProcess())
    return store.build("hpc-base", progress=lambda phase, line: None)


class Guest:
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
        backing = ["-b", image.disk, "-F", "qcow2"]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, self.disk, f"{DISK_GIB}G"], check=True)

    def boot(self) -> str:
        """Start and wait until the console has told the host key; returns it."""
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
                f"type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root={public}",
                *("-kernel", self.image.kernel, "-initrd", self.image.initrd),
                *("-append", " ".join((*self.image.manifest.cmdline, *own))),
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
        pytest.fail(f"no host key on the console: {self.text()[-2000:]}")

    def text(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def ssh(self, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        fixed = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityFile": str(self.key),
            "UserKnownHostsFile": str(self.known_hosts),
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": "30",
            "LogLevel": "ERROR",
        }
        settings = [word for name, value in fixed.items() for word in ("-o", f"{name}={value}")]
        argv = ["ssh", "-F", "none", *options, *settings, "-p", str(self.port), "root@127.0.0.1", command]
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
        with socket.socket(socket.AF_UNIX) as qmp:
            qmp.connect(str(self.directory / "qmp"))
            for command in ("qmp_capabilities", "system_powerdown"):
                qmp.sendall(json.dumps({"execute": command}).encode() + b"\n")
            assert self.process is not None
            assert self.process.wait(timeout=120) == 0

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def guest(image: GoldenImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    guest = Guest(image, tmp_path_factory.mktemp("guest"))
    try:
        guest.boot()
        guest.wait_for_ssh()
        yield guest
    finally:
        guest.end()


def test_identity_comes_from_the_host(guest: Guest) -> None:
    assert guest.output("hostname") == "hpc-compute-7"
    assert guest.output("cat /etc/machine-id") == MACHINE_ID
    assert guest.output("cat /root/.ssh/authorized_keys") == guest.key.with_suffix(".pub").read_text().strip()
    assert guest.output("stat -c '%U %a' /root/.ssh/authorized_keys") == "root 600"


def test_the_guest_comes_up_whole(guest: Guest) -> None:
    state = guest.ssh("systemctl is-system-running --wait").stdout.strip()
    failed = guest.output("systemctl --failed --plain --no-legend")
    assert (state, failed) == ("running", "")
    # systemd breaks a cycle by leaving out a job of its choice: another one at every boot.
    assert guest.output("journalctl -b --no-pager | grep -c 'rdering cycle' || true") == "0"


def test_the_root_file_system_has_grown_to_the_disk(guest: Guest) -> None:
    size = int(guest.output("df --output=size -B1 / | tail -1"))
    assert size > 0.94 * DISK_GIB * 2**30


def test_address_comes_by_dhcp_and_the_resolver_runs(guest: Guest) -> None:
    assert guest.output("ip -4 -o addr show dev eth0 | grep -c ' 10.0.2.15/'") == "1"
    guest.output("systemctl is-system-running --wait || true")
    # QEMU's restricted network hands out no name server; a lab's own does, and its tests look names up.
    assert "managed by man:systemd-resolved" in guest.output("cat /etc/resolv.conf")


def test_only_a_key_lets_in(guest: Guest) -> None:
    refused = guest.ssh("true", "-o", "PubkeyAuthentication=no", "-o", "PreferredAuthentications=password")
    assert refused.returncode == 255
    assert "Permission denied (publickey)" in refused.stderr
    passwords = guest.output("cut -d: -f2 /etc/shadow | sort -u").split()
    assert all(word[0] in "!*" for word in passwords), "somebody has a password"


def test_no_identity_or_secret_is_baked_in(guest: Guest) -> None:
    assert guest.output("ls /etc/ssh/ssh_host_*") == (
        "/etc/ssh/ssh_host_ed25519_key\n/etc/ssh/ssh_host_ed25519_key.pub"
    )
    # Made in this guest: newer than the boot of its kernel.
    boot = int(guest.output("sed -n 's/^btime //p' /proc/stat"))
    assert int(guest.output("stat -c %Y /etc/ssh/ssh_host_ed25519_key")) >= boot - 2
    assert guest.ssh("test -e /etc/munge/munge.key").returncode == 1
    assert guest.output("ls /etc/apt/sources.list.d /etc/apt/apt.conf.d").count("mmdebstrap") == 0
    assert guest.ssh("test -s /etc/apt/sources.list").returncode == 1


def test_services_of_slurm_wait_for_the_playbook(guest: Guest) -> None:
    units = ("munge", "slurmctld", "slurmd", "slurmdbd", "mariadb")
    assert guest.ssh(f"systemctl is-enabled {' '.join(units)}").stdout.split() == ["disabled"] * len(units)
    guest.output("command -v srun sinfo sacctmgr mariadb munge python3")


def test_installed_files_are_as_packaged(guest: Guest) -> None:
    # dpkg reports what the recipe leaves out or replaces; anything else was damaged on the way.
    known = ("/usr/share/", "/etc/", "/boot/", "/usr/lib/python3", "/var/log/apt")
    lines = guest.ssh("dpkg --verify").stdout.splitlines()
    assert [line for line in lines if not line.split()[-1].startswith(known)] == []


def test_errors_are_seen_on_the_console(guest: Guest) -> None:
    guest.output("echo '<3>lab test: this is an error' >/dev/kmsg")
    deadline = time.monotonic() + 30
    while "lab test: this is an error" not in guest.text():
        assert time.monotonic() < deadline
        time.sleep(0.2)


# Last: it ends the guest and starts it again.
def test_the_power_button_shuts_down_and_the_host_key_stays(guest: Guest) -> None:
    guest.output("systemctl is-system-running --wait || true")
    key = guest.output("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub")
    guest.press_power_button()
    assert guest.boot() == key
    guest.wait_for_ssh()
    assert guest.output("hostname") == "hpc-compute-7"
