"""Steps that only a person can take: firmware settings, NVIDIA's licensed driver, licences."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.host.checks.archives import has_debian_sources
from emulator.host.checks.iommu import NAMES
from emulator.host.readings import DriverKind, HostReadings


@dataclass(frozen=True, slots=True)
class ManualStep:
    """Instructions for a person; each of `lines` is a sentence, or a command after `$ `."""

    title: str
    lines: tuple[str, ...]


_DRIVER = ManualStep(
    "Install NVIDIA's vGPU host driver (needed for slices, not for whole GPUs)",
    (
        "1. Download the package for Linux KVM from NVIDIA's licensing portal: it needs an account with a licence for "
        "NVIDIA AI Enterprise (MIG-capable GPUs) or NVIDIA vGPU. Take the same branch as the driver in your guests.",
        "2. Install the tools that build its kernel module:",
        "   $ apt-get install build-essential dkms linux-headers-$(uname -r)",
        "3. Under Secure Boot the module must be signed with a key that the firmware knows; check whether it is on:",
        "   $ mokutil --sb-state",
        "4. Install the Virtual GPU Manager from the package (with your version in place of VERSION):",
        "   $ sh ./NVIDIA-Linux-x86_64-VERSION-vgpu-kvm.run --dkms --silent",
        "   On Ubuntu: $ apt-get install ./nvidia-vgpu-ubuntu-VERSION_amd64.deb",
        "5. Reboot, then check that driver, module and services are there:",
        "   $ nvidia-smi; lsmod | grep nvidia_vgpu_vfio; systemctl status nvidia-vgpud nvidia-vgpu-mgr",
        "6. On GPUs since Ampere switch the virtual functions on, and count them (the script may report success "
        "without having made any):",
        "   $ /usr/lib/nvidia/sriov-manage -e ALL; ls -d /sys/bus/pci/devices/*/virtfn* | wc -l",
        "7. Check the result: $ hyperscaler host check && hyperscaler gpu discover",
    ),
)
_LICENCE = ManualStep(
    "License the guests (without a licence vGPUs slow down after a while)",
    (
        "1. Create a licence server in NVIDIA's licensing portal (in the cloud, or an appliance in your network), give "
        "it your licences, and download a client configuration token.",
        "2. Copy the token to /etc/nvidia/ClientConfigToken/ in each guest with a vGPU, and restart its service:",
        "   $ systemctl restart nvidia-gridd; nvidia-smi -q | grep -A2 'vGPU Software Licensed'",
        "The guests need the vGPU guest driver of the host driver's branch, not the data-centre driver.",
    ),
)
# A mirror is the user's choice: this program names no server.
_ARCHIVE = (
    "1. Write /etc/apt/sources.list.d/debian.sources, with a mirror of Debian's archive in the place of MIRROR, and "
    "one of its security archive in that of SECURITY:",
    "   Types: deb",
    "   URIs: MIRROR",
    "   Suites: bookworm bookworm-updates",
    "   Components: main",
    "   Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg",
    "   (an empty line, then the same with URIs: SECURITY and Suites: bookworm-security)",
    "2. Write /etc/apt/preferences.d/debian, so that this host itself never takes a package from there:",
    "   Package: *",
    "   Pin: release o=Debian",
    "   Pin-Priority: -1",
    "3. Check the result: $ apt-get update && hyperscaler host check",
)


def manual_steps(host: HostReadings, *, gpus: bool) -> tuple[ManualStep, ...]:
    """The steps that remain to be done by hand on this host."""
    found = []
    name = NAMES.get(host.processor.vendor, "the IOMMU")
    switches = []
    if host.processor.virtualisation is None and not host.processor.is_guest:
        switches.append("virtualisation of the processor (VT-x, or SVM)")
    if gpus and not host.iommu.groups and not host.iommu.tables and not host.processor.is_guest:
        switches.append(f"{name}, SR-IOV and Above 4G Decoding")
    if switches:
        lines = ("$ systemctl reboot --firmware-setup", f"Switch on: {'; '.join(switches)}.")
        found.append(ManualStep("Firmware settings", lines))
    if "apt-get" in host.programs and not has_debian_sources(host):
        title = f"Give apt Debian's archive (the guests are Debian, and this host is {host.system_name})"
        found.append(ManualStep(title, _ARCHIVE))
    if gpus and (host.driver is None or host.driver.kind is not DriverKind.VGPU_HOST):
        found.append(_DRIVER)
        found.append(_LICENCE)
    return tuple(found)
