"""What the host's libvirt does to hold a guest that broke out of QEMU, besides its user and the system call filter."""

from __future__ import annotations

from emulator.host.checks.result import HostCheckResult, Level, ok
from emulator.host.readings import HostReadings

_RESTART = "then systemctl restart libvirtd (guests keep running; each is confined from its next start on)"


def check_confinement(host: HostReadings) -> HostCheckResult:
    """AppArmor or SELinux, under the host's libvirt."""
    id_, title = "system.confinement", "guests' confinement"
    why = "it holds a guest that broke out of QEMU even if an account or the system call filter has a hole"
    seen = host.confinement
    active = [name for name, on in (("AppArmor", seen.apparmor), ("SELinux", seen.selinux)) if on]
    if not active:
        return ok(id_, title, "neither is active: an account for each guest and the filter alone", why)
    name = " and ".join(active)
    if not host.system_libvirt:
        found = f"{name} is active; it confines guests of qemu:///system, not those of a lab's own libvirt"
        return ok(id_, title, found, why)
    if seen.drivers is None:
        fix = "run the check as root"
        return HostCheckResult(
            id_, title, Level.WARN, f"{name} is active; libvirt's settings are hidden", why, fix, True
        )
    if "none" in seen.drivers:
        fix = f"remove security_driver from /etc/libvirt/qemu.conf, {_RESTART}"
        return HostCheckResult(id_, title, Level.WARN, f"{name} is active, but libvirt's settings forbid it", why, fix)
    if seen.apparmor and not seen.profiles:
        fix = f"apt-get install --reinstall libvirt-daemon-system, {_RESTART}"
        found = "AppArmor is active, but libvirt's profiles for guests are not installed"
        return HostCheckResult(id_, title, Level.WARN, found, why, fix)
    return ok(id_, title, f"{name}, with a label of its own for each guest of qemu:///system", why)
