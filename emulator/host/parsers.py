"""Output of the kernel and of programs, and configuration files, parsed into the types of `readings.py`. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from emulator.core.units import natural
from emulator.host.readings import Cgroups, CpuVendor, ForwardChain, Processor

_VERSION = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})+")


def parse_modules(text: str) -> frozenset[str]:
    """Names of modules from `modules.dep` or `modules.builtin`, whose lines begin with a module's path."""
    paths = (line.partition(":")[0] for line in text.splitlines())
    # The file may be compressed: vfio-pci.ko.xz
    return frozenset(path.rpartition("/")[2].partition(".")[0].replace("-", "_") for path in paths if path)


def parse_processor(cpuinfo: str) -> Processor:
    """The first processor of `/proc/cpuinfo`; all are taken to be alike, as virt-host-validate does."""
    first = cpuinfo.split("\n\n", 1)[0]
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    vendors = {"GenuineIntel": CpuVendor.INTEL, "AuthenticAMD": CpuVendor.AMD, "HygonGenuine": CpuVendor.AMD}
    return Processor(
        vendors.get(values.get("vendor_id", ""), CpuVendor.OTHER),
        values.get("model name", "unknown"),
        frozenset(values.get("flags", "").split()),
    )


def parse_version(text: str) -> str:
    """The first dotted number in a program's output: `libvirtd (libvirt) 9.0.0` -> `9.0.0`; empty if there is none."""
    match = _VERSION.search(text)
    return match.group() if match else ""


def parse_driver_version(text: str) -> tuple[str, bool]:
    """The version in `/proc/driver/nvidia/version`, and whether the kernel modules are the open ones."""
    line = next((line for line in text.splitlines() if line.startswith("NVRM version")), "")
    match = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", line)
    return match.group() if match else "", "Open Kernel Module" in line


def parse_device_minor(text: str) -> int | None:
    """The number N of /dev/nvidiaN from `/proc/driver/nvidia/gpus/<address>/information`."""
    match = re.search(r"^Device Minor:\s*([0-9]{1,9})\b", text, re.MULTILINE)
    return int(match.group(1)) if match else None


def parse_blacklist(text: str) -> frozenset[str]:
    """Modules that a modprobe.d file keeps from loading: `blacklist NAME`, or `install NAME` with false or true."""
    found = set()
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if (len(words) == 2 and words[0] == "blacklist") or (
            len(words) >= 3 and words[0] == "install" and Path(words[2]).name in ("false", "true")
        ):
            found.add(words[1].replace("-", "_"))
    return frozenset(found)


def parse_open_files(limits: str) -> tuple[int | None, int | None]:
    """Soft and hard limit of open files from `/proc/self/limits`."""
    match = re.search(r"^Max open files\s+(\S+)\s+(\S+)", limits, re.MULTILINE)
    if not match:
        return None, None
    soft, hard = map(natural, match.groups())
    return soft, hard


def parse_forward_drops(text: str) -> tuple[ForwardChain, ...]:
    """Chains of `nft list chains` that IPv4 packets of guests pass: at the hook `forward`, with the policy to drop.

    The family `bridge` counts, because packets between guests pass it.
    """
    found = []
    family = table = chain = ""
    for line in text.splitlines():
        words = line.replace(";", " ").split()
        if words[:1] == ["table"] and len(words) >= 3:
            family, table = words[1:3]
        elif words[:1] == ["chain"] and len(words) >= 2:
            chain = words[1]
        elif words[:1] == ["type"]:
            settings = dict(itertools.pairwise(words))
            if settings.get("hook") == "forward" and settings.get("policy") == "drop":
                found.append(ForwardChain(family, table, chain))
    return tuple(item for item in found if item.family in ("ip", "inet", "bridge"))


def parse_dpkg_status(text: str) -> frozenset[str]:
    """Names of the packages that dpkg has installed, and of those that these provide."""
    found: set[str] = set()
    for paragraph in text.split("\n\n"):
        name = _field(paragraph, "Package")
        # `install ok installed`, and `hold` for what is not to be upgraded.
        if name and _field(paragraph, "Status").split()[-1:] == ["installed"]:
            found |= {name, *_provided(_field(paragraph, "Provides"))}
    return frozenset(found)


def _field(paragraph: str, name: str) -> str:
    """The value of a field, whose further lines begin with a blank (deb822(5)); empty without it."""
    match = re.search(rf"^{name}:[ \t]*(.*(?:\n[ \t].*)*)", paragraph, re.MULTILINE)
    return " ".join(match.group(1).split()) if match else ""


def _provided(value: str) -> Iterator[str]:
    """`qemu-kvm (= 1:10.2), qemu-system-x86:any` -> the names; versions do not matter, the product asks for none."""
    for item in value.split(","):
        name = item.partition("(")[0].strip().partition(":")[0]
        if name:
            yield name


_SOURCE_LINE = re.compile(r"^\s*deb\s+(?:\[[^\]\n]*\]\s+)?\S+\s+(\S+)", re.MULTILINE)


def parse_apt_suites(lines: str, paragraphs: str) -> frozenset[str]:
    """Suites whose binary packages apt's sources name, such as `noble-updates`.

    Args:
        lines: files of one-line sources (sources.list(5)).
        paragraphs: files of deb822 sources, which may be switched off one by one.
    """
    found = set(_SOURCE_LINE.findall(lines))
    for paragraph in re.split(r"\n\s*\n", re.sub(r"^#.*\n?", "", paragraphs, flags=re.MULTILINE)):
        enabled = _field(paragraph, "Enabled").lower() not in ("no", "false", "without", "off", "disable", "0")
        if enabled and "deb" in _field(paragraph, "Types").split():
            found |= set(_field(paragraph, "Suites").split())
    return frozenset(found)


def parse_package_list(text: str) -> dict[str, bool]:
    """The program's list of Debian packages, one name per line with a comment; True for optional packages.

    Packages below the line `# setup only` are needed to install the program, not to run it, and are left out.
    """
    found = {}
    for line in text.partition("\n# setup only")[0].splitlines():
        name, _, comment = line.partition("#")
        if name.strip():
            found[name.strip()] = comment.strip().startswith("optional")
    return found


def parse_cgroup_mounts(mounts: str, unified: str) -> Cgroups:
    """Controllers from `/proc/mounts` and the root's `cgroup.controllers`, which is empty without version 2.

    In version 2 devices (BPF programs), freezer and accounting are no controllers: they are always available.
    """
    old: set[str] = set()
    for line in mounts.splitlines():
        words = line.split()
        if len(words) >= 4 and words[2] == "cgroup":
            old |= set(words[3].split(","))
    known = {"cpu", "cpuacct", "cpuset", "memory", "devices", "blkio", "freezer", "pids"}
    if old & known:
        return Cgroups(1, frozenset(old & known))
    if not unified.strip():
        return Cgroups(0, frozenset())
    new = {"blkio" if word == "io" else word for word in unified.split()}
    return Cgroups(2, frozenset((new & known) | {"devices", "freezer", "cpuacct"}))


_SECURITY_DRIVER = re.compile(r"^\s*security_driver\s*=\s*(.*)$", re.MULTILINE)


def parse_security_drivers(text: str) -> tuple[str, ...]:
    """The `security_driver` of libvirt's qemu.conf, one or a list; of several lines libvirt, too, takes the last."""
    found = _SECURITY_DRIVER.findall(text)
    return tuple(re.findall(r"""["']([^"']*)["']""", found[-1].partition("#")[0])) if found else ()
