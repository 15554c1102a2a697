"""What kind of machine is the host? Its architecture, and systems that are no general-purpose Linux hosts. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

X86_64 = "x86_64"
_WORDS = {
    "aarch64": "64-bit ARM",
    "arm": "32-bit ARM",
    "i686": "32-bit x86",
    "riscv64": "64-bit RISC-V",
    "ppc64le": "POWER",
    "s390x": "IBM Z",
    "loongarch64": "LoongArch",
}
# Endings of kernel releases: Debian's architectures and flavours.
_RELEASES: tuple[tuple[str, str], ...] = (
    (r"amd64|x86[_-]64", X86_64),
    (r"arm64|aarch64|rpi-v8|rpi-2712", "aarch64"),
    (r"armmp|armmp-lpae|armhf|armel|rpi|rpi-v7l?|marvell", "arm"),
    (r"686|686-pae|i[3-6]86", "i686"),
    (r"riscv64", "riscv64"),
    (r"powerpc64le|ppc64el|ppc64le", "ppc64le"),
    (r"s390x", "s390x"),
    (r"loong64|loongarch64", "loongarch64"),
)
# Fields of `/proc/cpuinfo` that only one architecture has: the field, the beginning of its value, the architecture.
_FIELDS: tuple[tuple[str, str, str], ...] = (
    ("cpu architecture", "8", "aarch64"),
    ("cpu architecture", "aarch64", "aarch64"),
    ("cpu architecture", "7", "arm"),
    ("cpu architecture", "6", "arm"),
    ("cpu implementer", "", "aarch64"),
    ("isa", "rv64", "riscv64"),
    ("isa", "rv32", "riscv32"),
    ("cpu", "power", "ppc64le"),
    ("vendor_id", "ibm/s390", "s390x"),
    ("cpu family", "loongson-64bit", "loongarch64"),
    ("vendor_id", "genuineintel", X86_64),
    ("vendor_id", "authenticamd", X86_64),
    ("vendor_id", "hygongenuine", X86_64),
    ("vendor_id", "centaurhauls", X86_64),
    ("vendor_id", "shanghai", X86_64),
)


def parse_architecture(arch: str, cpuinfo: str, release: str) -> str:
    """The kernel's architecture as `uname -m` names it; empty if nothing says it.

    Args:
        arch: the text of `/proc/sys/kernel/arch`, which kernels have since 6.1.
        cpuinfo: the text of `/proc/cpuinfo`.
        release: the kernel's release, such as `6.1.0-44-arm64`.
    """
    by_release = _of_release(release.strip())
    # A 64-bit processor may run a 32-bit kernel, which only the release shows.
    if by_release == "i686":
        return arch.strip() or by_release
    return arch.strip() or _of_cpuinfo(cpuinfo) or by_release


def _of_release(release: str) -> str:
    return next((name for ending, name in _RELEASES if re.search(rf"[-.+_](?:{ending})$", release)), "")


def _of_cpuinfo(text: str) -> str:
    pairs = (line.partition(":") for line in text.splitlines())
    lines = [(key.strip().lower(), value.strip().lower()) for key, _, value in pairs]
    return next(
        (
            name
            for wanted, beginning, name in _FIELDS
            if any(key == wanted and value.startswith(beginning) for key, value in lines)
        ),
        "",
    )


def foreign_architecture(architecture: str) -> str:
    """The name of an architecture that labs do not run on; empty for x86-64, and if it is unknown."""
    if architecture in ("", X86_64):
        return ""
    words = _WORDS.get(architecture)
    return f"{words} ({architecture})" if words else architecture


# ---------------------------------------------------------------- systems that are no general-purpose hosts
@dataclass(frozen=True, slots=True)
class SystemSigns:
    """Facts that distinguish general-purpose systems from others.

    Attributes:
        release: the pairs of os-release(5).
        kernel: the kernel's release.
        markers: those of `MARKERS` that are there.
        container: the kind of container (`lxc`, `docker` ...) that the host is; empty if it is none.
        xen_control: whether the host is the control domain (dom0) of a Xen hypervisor.
    """

    release: Mapping[str, str] = field(default_factory=dict)
    kernel: str = ""
    markers: frozenset[str] = frozenset()
    container: str = ""
    xen_control: bool = False


@dataclass(frozen=True, slots=True)
class SystemKind:
    """A system that is no general-purpose Linux host.

    Attributes:
        name: for people.
        why: why that matters to labs.
        fix: the way to run labs nevertheless.
        refused: whether the program refuses to prepare such a system, because labs on it are not supported.
    """

    name: str
    why: str
    fix: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class _Rule:
    """A kind of system and its signs, any of which will do: values of `ID` or `VARIANT_ID`, packages, a part of the
    kernel's release, files."""

    name: str
    make: Callable[[str], SystemKind]
    ids: frozenset[str] = frozenset()
    packages: frozenset[str] = frozenset()
    kernel: str = ""
    markers: frozenset[str] = frozenset()


def _appliance(name: str) -> SystemKind:
    return SystemKind(
        name,
        "an appliance is administered through its own tools, which undo or forbid other changes, and its updates "
        "replace the system",
        f"make a Debian or Ubuntu virtual machine on {name}, with nested virtualisation, and run labs in there",
        refused=True,
    )


def _hypervisor(name: str) -> SystemKind:
    return SystemKind(
        name,
        f"{name} brings a QEMU of its own, with which Debian's packages conflict, and manages guests, networks and the "
        "boot loader itself",
        f"make a Debian or Ubuntu virtual machine on {name} (CPU type host, for nested virtualisation) and run labs in "
        "there; packages of this system are never removed for a lab",
    )


def _immutable(name: str) -> SystemKind:
    return SystemKind(
        name,
        "its system is an image that is replaced as a whole: apt does not install programs there, nor does `host "
        "prepare`",
        "install what scripts/system-packages.txt lists by this system's own means (a layer or its configuration)",
    )


def _storage(name: str) -> SystemKind:
    return SystemKind(
        name,
        f"{name} writes configuration files of the system anew from its own settings",
        f"keep what `host prepare` does in mind when settings of {name} change, or run labs in a virtual machine on it",
    )


def _windows(name: str) -> SystemKind:
    return SystemKind(
        name,
        "Windows runs the kernel, and decides about nested virtualisation, kernel modules and memory; GPUs cannot be "
        "handed to guests",
        "[wsl2] nestedVirtualization=true in %UserProfile%\\.wslconfig, then wsl --shutdown; simulated GPUs only",
    )


_RULES: tuple[_Rule, ...] = (
    _Rule("TrueNAS", _appliance, packages=frozenset({"truenas", "middlewared"}), kernel="truenas"),
    _Rule("TrueNAS", _appliance, ids=frozenset({"truenas"}), markers=frozenset({"/usr/bin/midclt"})),
    _Rule("Unraid", _appliance, frozenset({"unraid-os", "unraid"}), kernel="unraid"),
    _Rule("Unraid", _appliance, markers=frozenset({"/etc/unraid-version"})),
    _Rule("XCP-ng (a Xen dom0)", _appliance, frozenset({"xcp-ng"})),
    _Rule("XenServer (a Xen dom0)", _appliance, frozenset({"xenserver", "xenenterprise"})),
    _Rule("XenServer or XCP-ng (a Xen dom0)", _appliance, markers=frozenset({"/etc/xensource-inventory"})),
    _Rule("oVirt Node", _appliance, frozenset({"ovirt-node", "rhvh"})),
    _Rule("Nutanix AHV", _appliance, frozenset({"ahv"}), markers=frozenset({"/etc/nutanix-release"})),
    _Rule("Synology DSM", _appliance, markers=frozenset({"/etc/synoinfo.conf"})),
    _Rule("QNAP QTS", _appliance, markers=frozenset({"/etc/config/uLinux.conf"})),
    _Rule("Home Assistant OS", _appliance, frozenset({"haos", "hassos"})),
    _Rule("VyOS", _appliance, frozenset({"vyos"})),
    _Rule("OpenWrt", _appliance, frozenset({"openwrt"})),
    _Rule("Talos Linux", _appliance, frozenset({"talos"})),
    _Rule("Bottlerocket", _appliance, frozenset({"bottlerocket"})),
    _Rule("Flatcar Container Linux", _appliance, frozenset({"flatcar"})),
    _Rule("Harvester", _appliance, frozenset({"harvester"}), markers=frozenset({"/oem/harvester.config"})),
    _Rule("ChromeOS", _appliance, frozenset({"chromeos", "chromiumos"})),
    _Rule(
        "Proxmox VE",
        _hypervisor,
        packages=frozenset({"proxmox-ve", "pve-manager", "pve-qemu-kvm"}),
        markers=frozenset({"/etc/pve"}),
    ),
    _Rule("Proxmox Backup Server", _storage, packages=frozenset({"proxmox-backup-server"})),
    _Rule("OpenMediaVault", _storage, packages=frozenset({"openmediavault"})),
    _Rule("Windows Subsystem for Linux", _windows, kernel="microsoft"),
    _Rule("NixOS", _immutable, frozenset({"nixos"})),
    _Rule("Guix System", _immutable, frozenset({"guix"})),
    _Rule("openSUSE MicroOS", _immutable, frozenset({"opensuse-microos", "opensuse-aeon", "sle-micro", "sl-micro"})),
    _Rule("Ubuntu Core", _immutable, frozenset({"ubuntu-core"})),
    _Rule("SteamOS", _immutable, frozenset({"steamos"})),
    _Rule("Vanilla OS", _immutable, frozenset({"vanilla"})),
    _Rule("an OSTree system", _immutable, markers=frozenset({"/run/ostree-booted"})),
)
MARKERS: tuple[str, ...] = tuple(sorted({marker for rule in _RULES for marker in rule.markers}))
"""Files and directories that identify a system."""


def system_kind(signs: SystemSigns, packages: frozenset[str] | None) -> SystemKind | None:
    """The kind of a system that is no general-purpose Linux host; None for one that is."""
    # A container has the kernel of the machine that runs it, so its release says nothing about the container.
    kernel = "" if signs.container else signs.kernel.lower()
    ids = {signs.release.get(key, "").lower() for key in ("ID", "VARIANT_ID")}
    for rule in _RULES:
        if rule.ids & ids or rule.packages & (packages or frozenset()) or rule.markers & signs.markers:
            return rule.make(_own_name(rule, signs))
        if rule.kernel and rule.kernel in kernel:
            return rule.make(rule.name)
    return _by_place(signs)


def _own_name(rule: _Rule, signs: SystemSigns) -> str:
    """XCP-ng and OSTree systems are named as they name themselves."""
    if rule.name == "an OSTree system":
        return signs.release.get("PRETTY_NAME", rule.name)
    own = signs.release.get("NAME", "").lower()
    return "XCP-ng (a Xen dom0)" if own == "xcp-ng" else rule.name


def _by_place(signs: SystemSigns) -> SystemKind | None:
    if signs.container:
        return SystemKind(
            f"a container ({signs.container})",
            "kernel, modules and devices are those of the machine that runs the container; labs work where it is "
            "privileged and has /dev/kvm and /dev/net/tun",
            "run labs on the machine itself or in a virtual machine; else prepare the machine that runs the container",
        )
    if signs.xen_control:
        return SystemKind(
            "the control domain of a Xen hypervisor (dom0)",
            "Xen has the processor's virtualisation, so that guests of labs are emulated here",
            "boot this system without Xen, or run labs in a Xen guest with nested virtualisation",
        )
    if "-pve" in signs.kernel:
        return _hypervisor("a kernel of Proxmox VE")
    return None
