"""What of a host is no file: programs asked, devices opened, space counted; or what was recorded of another host.

A recorded host is a directory in the place of `/`. A device node is a file there that says what opening it gave
(`usable`, `refused`, `broken`); `recorded/programs/<name>` holds what a program printed, `recorded/disk_free_gib` a
number and `recorded/clock_synchronised` `yes` or `no`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from emulator.adapters.system.kernel_ntp import clock_synchronised
from emulator.core.errors import HyperscalerError
from emulator.core.ports import ProcessRunner
from emulator.host.facts import disk_free_gib
from emulator.host.readings import DeviceAnswer

# KVM_GET_API_VERSION of <linux/kvm.h>; the answer has been 12 since Linux 2.6.22.
_KVM_GET_API_VERSION = 0xAE00
_KVM_API_VERSION = 12

# Seconds that a program may take to tell its version: a host check as a whole takes at most two.
_TIMEOUT = 1.5

# What is asked of each program. packer would ask its maker for news at every start.
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
# They answer root alone.
_ROOT_ONLY = frozenset({"iptables-forward", "nft-chains"})
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
        # Ordinary users have no sbin on their path, and the programs are there all the same.
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
        self._root = root

    def device(self, path: str) -> DeviceAnswer:
        try:
            return DeviceAnswer((self._root / path.lstrip("/")).read_text().strip())
        except FileNotFoundError:
            return DeviceAnswer.ABSENT
        except (OSError, ValueError):
            return DeviceAnswer.BROKEN

    def says(self, program: str) -> str | None:
        try:
            return (self._root / "recorded" / "programs" / program).read_text(errors="replace")
        except OSError:
            return None

    def disk_free_gib(self, directory: Path) -> float:
        del directory
        try:
            return float((self._root / "recorded" / "disk_free_gib").read_text())
        except (OSError, ValueError):
            return 0.0

    def clock_synchronised(self) -> bool | None:
        try:
            said = (self._root / "recorded" / "clock_synchronised").read_text().strip()
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
    # EBUSY: VirtualBox has the processor's virtualisation for itself.
    return DeviceAnswer.BROKEN


def _ansible() -> str | None:
    """The one that the program itself runs, which is a library of its own environment."""
    try:
        return metadata.version("ansible-core")
    except metadata.PackageNotFoundError:
        return None
