"""The signs by which KVM is decided on, read from this host."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from emulator.adapters.system.host_probe import open_device
from emulator.host.acceleration import AccelerationFacts
from emulator.host.parsers import parse_processor


def read_acceleration_facts(
    *, cpuinfo: Path = Path("/proc/cpuinfo"), device: Path = Path("/dev/kvm")
) -> AccelerationFacts:
    """Read the host's signs; an unreadable sign counts as absent."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return AccelerationFacts(flag=parse_processor(text).virtualisation, kvm=open_device(device, kvm=True))


def capabilities_offer_kvm(capabilities: str) -> bool:
    """Whether a libvirt `<capabilities>` document lists KVM for x86-64 guests."""
    try:
        root = ET.fromstring(capabilities)  # noqa: S314 - written by libvirt
    except ET.ParseError:
        return False
    return root.find("guest/arch[@name='x86_64']/domain[@type='kvm']") is not None
