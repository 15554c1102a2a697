"""What the host's libvirt does to hold a guest that broke out of QEMU, besides its user and the system call filter."""

from __future__ import annotations

from collections.abc import Iterator

from emulator.host.checks.result import HostCheckResult, Level, ok
from emulator.host.readings import HostReadings

_RESTART = "then systemctl restart libvirtd (guests keep running; each is confined from its next start on)"


def check_confinement(host: HostReadings) -> Iterator[HostCheckResult]:
    """AppArmor or SELinux under the host's libvirt, and the account that its guests have their groups from."""
    yield _modules(host)
    yield _account(host)


def _modules(host: HostReadings) -> HostCheckResult:
    id_, title = "system.confinement", "AppArmor or SELinux for guests"
    why = "it holds a guest that broke out of QEMU even if an account or the system call filter has a hole"
    seen = host.confinement
    active = [name for name, on in (("AppArmor", seen.apparmor), ("SELinux", seen.selinux)) if on]
    if not active:
        return ok(id_, title, "neither is active: an account for each guest and the filter alone", why)
    name = " and ".join(active)
    if not host.system_libvirt:
        found = f"{name} is active; it confines guests of qemu:///system, not those of a lab's own libvirt"
        return ok(id_, title, found, why)
    if seen.settings is None:
        fix = "run the check as root"
        return HostCheckResult(
            id_, title, Level.WARN, f"{name} is active; libvirt's settings are hidden", why, fix, True
        )
    if "none" in seen.settings.drivers:
        fix = f"remove security_driver from /etc/libvirt/qemu.conf, {_RESTART}"
        return HostCheckResult(id_, title, Level.WARN, f"{name} is active, but libvirt's settings forbid it", why, fix)
    if seen.apparmor and not seen.profiles:
        fix = f"apt-get install --reinstall libvirt-daemon-system, {_RESTART}"
        found = "AppArmor is active, but libvirt's profiles for guests are not installed"
        return HostCheckResult(id_, title, Level.WARN, found, why, fix)
    return ok(id_, title, f"{name}, with a label of its own for each guest of qemu:///system", why)


def _account(host: HostReadings) -> HostCheckResult:
    id_, title = "system.qemu-account", "account of the host's libvirt for QEMU"
    why = "each guest has a user of its own, but libvirt gives its QEMU the further groups of this account"
    seen = host.confinement.settings
    if seen is None:
        return ok(id_, title, "as the packages set it, as far as this user can see", why)
    if seen.user.lstrip("+") in ("root", "0"):
        fix = f"remove user and group from /etc/libvirt/qemu.conf, {_RESTART}"
        return HostCheckResult(id_, title, Level.WARN, "root: guests of qemu:///system have root's group", why, fix)
    return ok(id_, title, seen.user or "as the packages set it", why)
