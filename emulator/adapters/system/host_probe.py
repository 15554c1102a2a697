"""The parts of a host that are not files to read: programs to ask, devices to open, free space; live or recorded.

A recorded host is a directory in the place of `/`. A device node is a text file there with the result of opening it
(`usable`, `refused`, `broken`); `recorded/programs/<name>` holds the output of a program, `recorded/disk_free_gib` a
number, and `recorded/clock_synchronised` `yes` or `no`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from math import isfinite
from pathlib import Path

from emulator.adapters.system.host_files import RecordedFiles
from emulator.adapters.system.kernel_ntp import clock_synchronised
from emulator.core.errors import HyperscalerError
from emulator.core.ports import ProcessRunner
from emulator.host.facts import disk_free_gib
from emulator.host.readings import DeviceAnswer

# KVM_GET_API_VERSION of <linux/kvm.h>; the answer has been 12 since Linux 2.6.22.
_KVM_GET_API_VERSION = 0xAE00
_KVM_API_VERSION = 12

# Seconds that a program may take to print its version: a whole host check takes at most two.
_TIMEOUT = 1.5

# The question to each program.
_QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "libvirtd": ("libvirtd", "--version"),
    "virtqemud": ("virtqemud", "--version"),
    "qemu": ("qemu-system-x86_64", "--version"),
    "qemu-img": ("qemu-img", "--version"),
    "dnsmasq": ("dnsmasq", "--version"),
    "packer": ("packer", "version"),
    "iptables-forward": ("iptables", "-S", "FORWARD"),
    "nft-chains": ("nft", "list", "chains"),
}
# They answer only root.
_ROOT_ONLY = frozenset({"iptables-forward", "nft-chains"})
# packer would ask its maker for updates at every start.
_SILENT = {"CHECKPOINT_DISABLE": "1"}


class LiveProbe:
    """`HostProbe` of this machine."""

    def __init__(self, runner: ProcessRunner) -> None:
        self._runner = runner

    def device(self, path: str) -> DeviceAnswer:
        return open_device(Path(path), kvm=path == "/dev/kvm")

    def says(self, program: str) -> str | None:
        if program == "ansible":
            return _ansible()
        question = _QUESTIONS.get(program, (program,))
        # Ordinary users have no sbin on their path, but the programs may be there.
        path = shutil.which(question[0], path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/bin:/bin")
        if path is None:
            return None
        if len(question) == 1:
            return ""
        try:
            done = self._runner.run([path, *question[1:]], timeout=_TIMEOUT, check=False, env=_SILENT)
        except HyperscalerError:
            return ""
        if program in _ROOT_ONLY and done.returncode != 0:
            return None
        return done.stdout

    def disk_free_gib(self, directory: Path) -> float:
        return disk_free_gib(directory)

    def clock_synchronised(self) -> bool | None:
        return clock_synchronised()


class RecordedProbe:
    """`HostProbe` of the host that was recorded below `root`."""

    def __init__(self, root: Path) -> None:
        self._files = RecordedFiles(root)

    def device(self, path: str) -> DeviceAnswer:
        try:
            return DeviceAnswer(self._files.read(path).strip())
        except FileNotFoundError:
            return DeviceAnswer.ABSENT
        except (OSError, ValueError):
            return DeviceAnswer.BROKEN

    def says(self, program: str) -> str | None:
        try:
            return self._files.read(f"/recorded/programs/{program}")
        except OSError:
            return None

    def disk_free_gib(self, directory: Path) -> float:
        del directory
        try:
            free = float(self._files.read("/recorded/disk_free_gib"))
            return free if isfinite(free) else 0.0
        except (OSError, ValueError):
            return 0.0

    def clock_synchronised(self) -> bool | None:
        try:
            said = self._files.read("/recorded/clock_synchronised").strip()
        except OSError:
            return None
        return {"yes": True, "no": False}.get(said)


def open_device(path: Path, *, kvm: bool = False) -> DeviceAnswer:
    """What opening the device node gives; one that has to be KVM is asked for the version of its interface, too."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return _answer(error.errno)
    try:
        if kvm and fcntl.ioctl(descriptor, _KVM_GET_API_VERSION) != _KVM_API_VERSION:
            return DeviceAnswer.BROKEN
    except OSError:
        return DeviceAnswer.BROKEN
    finally:
        os.close(descriptor)
    return DeviceAnswer.USABLE


def _answer(number: int | None) -> DeviceAnswer:
    if number in (errno.ENOENT, errno.ENOTDIR):
        return DeviceAnswer.ABSENT
    if number in (errno.EACCES, errno.EPERM):
        return DeviceAnswer.REFUSED
    # EBUSY: VirtualBox uses the processor's virtualisation.
    return DeviceAnswer.BROKEN


def _ansible() -> str | None:
    """The version of the Ansible that this program runs: a library in its own environment."""
    try:
        return metadata.version("ansible-core")
    except metadata.PackageNotFoundError:
        return None
