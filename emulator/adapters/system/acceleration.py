"""Decides whether guests run on KVM, from three signs that must agree."""

from __future__ import annotations

import fcntl
import os
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from emulator.core.errors import HostNotFitError
from emulator.labfile.model import Acceleration

# KVM_GET_API_VERSION of <linux/kvm.h>; the answer has been 12 since Linux 2.6.22.
_KVM_GET_API_VERSION = 0xAE00
_KVM_API_VERSION = 12

_FLAGS = re.compile(r"^flags\s*:.*\b(vmx|svm)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class AccelerationDecision:
    """`accelerated` means KVM. `warning` is at most one line for the user, or None."""

    accelerated: bool
    reason: str
    warning: str | None


@dataclass(frozen=True, slots=True)
class AccelerationFacts:
    """Signs of this host: the text of /proc/cpuinfo, and whether /dev/kvm answers."""

    cpuinfo: str
    kvm_usable: bool


def decide_acceleration(
    requested: Acceleration, *, cpuinfo: str, kvm_usable: bool, libvirt_offers_kvm: bool
) -> AccelerationDecision:
    """KVM if CPU flag, /dev/kvm and libvirt agree, else TCG with one warning.

    The CPU flag comes first, as in libvirt's virt-host-validate: on some hosts (mostly virtual machines) /dev/kvm
    opens, creates a VM and is offered by libvirt, and a guest kernel still hangs because the processor has no
    virtualisation.

    Raises:
        HostNotFitError: `requested` is kvm, and a sign is missing.
    """
    if requested is Acceleration.TCG:
        return AccelerationDecision(accelerated=False, reason="the lab file asks for TCG", warning=None)
    flag = _FLAGS.search(cpuinfo)
    if flag is None:
        lack = "the CPU shows no vmx or svm flag"
        fix = "switch virtualisation on in the firmware, or nested virtualisation on for this machine"
    elif not kvm_usable:
        lack = "/dev/kvm cannot be used"
        fix = "modprobe kvm_intel (or kvm_amd), and make sure that /dev/kvm can be read and written"
    elif not libvirt_offers_kvm:
        lack = "libvirt does not offer KVM"
        fix = "virsh capabilities | grep \"domain type='kvm'\"; libvirtd's log has the reason"
    else:
        reason = f"CPU flag {flag.group(1)}, /dev/kvm and libvirt agree"
        return AccelerationDecision(accelerated=True, reason=reason, warning=None)
    if requested is Acceleration.KVM:
        raise HostNotFitError(
            f"the lab asks for KVM, but {lack}",
            where="hypervisor.acceleration",
            fix=f"{fix}; or set hypervisor.acceleration: auto",
        )
    warning = f"no hardware virtualisation ({lack}): the guests are emulated and several times slower"
    return AccelerationDecision(accelerated=False, reason=lack, warning=warning)


def read_acceleration_facts(
    *, cpuinfo: Path = Path("/proc/cpuinfo"), device: Path = Path("/dev/kvm")
) -> AccelerationFacts:
    """Read this host's signs; an unreadable one counts as absent."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return AccelerationFacts(cpuinfo=text, kvm_usable=_kvm_answers(device))


def capabilities_offer_kvm(capabilities: str) -> bool:
    """Whether a libvirt `<capabilities>` document lists KVM for x86-64 guests."""
    try:
        root = ET.fromstring(capabilities)  # noqa: S314 - written by libvirt
    except ET.ParseError:
        return False
    return root.find("guest/arch[@name='x86_64']/domain[@type='kvm']") is not None


def _kvm_answers(device: Path) -> bool:
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return int(fcntl.ioctl(descriptor, _KVM_GET_API_VERSION)) == _KVM_API_VERSION
    except OSError:
        return False
    finally:
        os.close(descriptor)
