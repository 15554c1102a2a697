"""Whether guests run on KVM: decided from three signs that must agree, never assumed."""

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
    """`accelerated` means KVM. `warning` is for the user, at most one line; None when all is well."""

    accelerated: bool
    reason: str
    warning: str | None


@dataclass(frozen=True, slots=True)
class AccelerationFacts:
    """What this host shows: the text of /proc/cpuinfo, and whether /dev/kvm answers."""

    cpuinfo: str
    kvm_usable: bool


def decide_acceleration(
    requested: Acceleration, *, cpuinfo: str, kvm_usable: bool, libvirt_offers_kvm: bool
) -> AccelerationDecision:
    """KVM only when CPU flag, /dev/kvm and libvirt agree, else TCG with one warning.

    The CPU flag decides first: there are hosts (virtual machines mostly) where /dev/kvm opens, creates a VM and
    is offered by libvirt, and a guest kernel still hangs, because the processor has no virtualisation. libvirt's
    own virt-host-validate asks for the flag first, too.

    Raises:
        HostNotFitError: `requested` is kvm and a sign is missing.
    """
    if requested is Acceleration.TCG:
        return AccelerationDecision(accelerated=False, reason="the lab file asks for TCG", warning=None)
    flag = _FLAGS.search(cpuinfo)
    if flag is None:
        lack = "the CPU shows no vmx or svm flag"
        fix = "switch virtualisation on in the firmware, or nested virtualisation on for this machine"
    elif not kvm_usable:
        lack = "/dev/kvm cannot be used"
        fix = "modprobe kvm_intel (or kvm_amd), and see that /dev/kvm can be read and written"
    elif not libvirt_offers_kvm:
        lack = "libvirt does not offer KVM"
        fix = "virsh capabilities | grep \"domain type='kvm'\"; look into libvirtd's log for the reason"
    else:
        reason = f"CPU flag {flag.group(1)}, /dev/kvm and libvirt agree"
        return AccelerationDecision(accelerated=True, reason=reason, warning=None)
    if requested is Acceleration.KVM:
        raise HostNotFitError(
            f"KVM is asked for, but {lack}",
            where="hypervisor.acceleration",
            fix=f"{fix}; or set hypervisor.acceleration: auto",
        )
    warning = f"no hardware virtualisation ({lack}): the guests are emulated and several times slower"
    return AccelerationDecision(accelerated=False, reason=lack, warning=warning)


def read_acceleration_facts(
    *, cpuinfo: Path = Path("/proc/cpuinfo"), device: Path = Path("/dev/kvm")
) -> AccelerationFacts:
    """Read the host's signs; an unreadable sign counts as absent."""
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
