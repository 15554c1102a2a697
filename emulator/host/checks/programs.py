"""Versions of programs, the program's Debian packages, and the rights of this user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from emulator.host.checks.archives import check_archives
from emulator.host.checks.networks import uses_host_networks
from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.readings import HostReadings

_DEBIAN_LIKE = ("debian", "ubuntu")


@dataclass(frozen=True, slots=True)
class Minimum:
    """The oldest version of a program that works. Any of `names` will do; labs run without an `optional` one."""

    id: str
    title: str
    names: tuple[str, ...]
    version: str
    why: str
    fix: str
    optional: bool = False


_PREPARE = "hyperscaler host prepare"
_LIBVIRTD = Minimum(
    "libvirt",
    "libvirt",
    ("libvirtd",),
    "9.0",
    "it runs the guests; 9.0 (Debian 12) is the oldest tested version",
    f"{_PREPARE}, or apt-get install libvirt-daemon-system libvirt-daemon-driver-qemu",
)
# On the host's libvirt either daemon will do; a lab's own libvirt is always libvirtd.
_HOST_LIBVIRT = replace(_LIBVIRTD, names=("libvirtd", "virtqemud"))
_OTHERS = (
    Minimum(
        "qemu",
        "QEMU",
        ("qemu",),
        "7.2",
        "it emulates the guests' machine; 7.2 (Debian 12) is the oldest tested version",
        f"{_PREPARE}, or apt-get install qemu-system-x86",
    ),
    Minimum(
        "qemu-img",
        "qemu-img",
        ("qemu-img",),
        "7.2",
        "it makes the guests' disks",
        f"{_PREPARE}, or apt-get install qemu-utils",
    ),
    Minimum(
        "dnsmasq",
        "dnsmasq",
        ("dnsmasq",),
        "2.67",
        "it serves addresses and names to guests; libvirt needs at least 2.67",
        f"{_PREPARE}, or apt-get install dnsmasq-base",
    ),
    Minimum(
        "ansible",
        "Ansible",
        ("ansible",),
        "2.15",
        "it configures the guests; it is part of the program's own Python environment",
        "make setup",
    ),
    Minimum(
        "packer",
        "Packer",
        ("packer",),
        "1.6.6",
        "only images built through Packer need it; the usual images do not",
        "apt-get install packer",
        optional=True,
    ),
)


def check_programs(host: HostReadings, wanted: Wanted) -> Iterator[HostCheckResult]:
    """Versions, packages and the user's rights."""
    yield _libvirt(host, wanted)
    for minimum in _OTHERS:
        yield _program(host, minimum)
    yield _packages(host)
    yield from check_archives(host)
    yield _user(host)


def _libvirt(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    if uses_host_networks(host, wanted):
        return _program(host, _HOST_LIBVIRT)
    result = _program(host, _LIBVIRTD)
    if "libvirtd" not in host.programs and "virtqemud" in host.programs:
        found = "only virtqemud is installed, and a lab's own libvirt is a libvirtd"
        return replace(result, found=found, fix=f"{_LIBVIRTD.fix}; or hypervisor.uri: qemu:///system")
    return result


def _program(host: HostReadings, minimum: Minimum) -> HostCheckResult:
    id_ = f"program.{minimum.id}"
    found = next((host.programs[name] for name in minimum.names if name in host.programs), None)
    if found is None:
        if minimum.optional:
            return ok(id_, minimum.title, f"not installed; {minimum.why}", minimum.why)
        return HostCheckResult(id_, minimum.title, Level.FAIL, "not installed", minimum.why, minimum.fix)
    if not found.numbers:
        return HostCheckResult(
            id_, minimum.title, Level.WARN, "installed, but prints no version", minimum.why, minimum.fix
        )
    floor = tuple(int(part) for part in minimum.version.split("."))
    if found.numbers < floor:
        level = Level.WARN if minimum.optional else Level.FAIL
        return HostCheckResult(
            id_,
            minimum.title,
            level,
            f"{found.version}, older than {minimum.version}",
            minimum.why,
            f"apt-get update && {minimum.fix.rpartition('or ')[2]}",
        )
    return ok(id_, minimum.title, f"{found.version} (at least {minimum.version})", minimum.why)


def _packages(host: HostReadings) -> HostCheckResult:
    id_, title = "program.packages", "Debian packages"
    why = "programs that labs call to build images, networks and guests"
    if host.packages is None:
        fix = "install what scripts/system-packages.txt lists with this system's own package manager"
        return HostCheckResult(id_, title, Level.WARN, f"{host.system_name} has no dpkg", why, fix)
    missing = host.missing_packages
    if not missing:
        return ok(id_, title, f"all {len(host.wanted_packages)} installed", why)
    needed = [name for name in missing if name not in host.optional_packages]
    optional = [name for name in missing if name in host.optional_packages]
    found = [f"{len(needed)} missing: {', '.join(needed)}"] if needed else []
    found += [f"optional ones missing: {', '.join(optional)}"] if optional else []
    # apt installs all packages of a command or none, and not every release has the optional ones.
    fix = f"{_PREPARE}, or apt-get install --no-remove --no-install-recommends {' '.join(needed or optional)}"
    return HostCheckResult(id_, title, Level.FAIL if needed else Level.WARN, "; ".join(found), why, fix)


def _user(host: HostReadings) -> HostCheckResult:
    id_, title = "program.user", "user and groups"
    why = (
        "only root handles images, the packet filter and a lab's own libvirt; the groups libvirt and kvm only let "
        "others look at guests and open /dev/kvm"
    )
    user = host.user
    if user.is_root:
        return ok(id_, title, "root", why)
    lacking = [group for group in ("libvirt", "kvm") if group not in user.groups]
    groups = f"not in {' and '.join(lacking)}" if lacking else "in libvirt and kvm"
    found = f"{user.name}, {groups}: only root can provision"
    return HostCheckResult(id_, title, Level.WARN, found, why, "sudo hyperscaler provision FILE")
