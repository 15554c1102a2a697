"""The operating system: its kind, clock, limits and cgroups."""

from __future__ import annotations

from collections.abc import Iterator

from emulator.host.checks.confinement import check_confinement
from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.platform import system_kind
from emulator.host.readings import HostReadings

# The kernel cuts names of processes to 15 characters.
CLOCKS = {
    "chronyd": "chrony",
    "ntpd": "ntpd",
    "systemd-timesyn": "systemd-timesyncd",
    "openntpd": "openntpd",
    "phc2sys": "phc2sys",
}
# Commands that show the source of the time and the offset. chrony without `rtcsync` does not report to the kernel.
_ASK = {
    "chrony": "chronyc tracking (with rtcsync in chrony.conf the kernel knows, too)",
    "ntpd": "ntpq -p",
    "systemd-timesyncd": "timedatectl timesync-status",
    "openntpd": "ntpctl -s status",
}
# Controllers that virt-host-validate asks for (freezer in its LXC part).
_CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "blkio", "freezer")
INOTIFY_KEY = "fs.inotify.max_user_instances"
INOTIFY_INSTANCES = 512
"""Each dnsmasq and each libvirt daemon uses some; the kernel's default is 128 for all of a user's programs."""
INOTIFY_LEAST = 256
# Files that a libvirtd keeps open for itself and for each guest (monitor, log, tap, vhost, pipes), rounded up.
_FILES_BASE = 512
_FILES_NODE = 32


def check_system(host: HostReadings, wanted: Wanted) -> Iterator[HostCheckResult]:
    """Kind of system, clock, limits of open files and inotify, cgroup controllers, what holds guests."""
    yield _kind(host)
    yield _clock(host)
    yield _open_files(host, wanted)
    yield _inotify(host)
    yield _cgroups(host)
    yield check_confinement(host)


def _kind(host: HostReadings) -> HostCheckResult:
    id_, title = "system.kind", "kind of system"
    kind = system_kind(host.signs, host.packages)
    if kind is None:
        return ok(id_, title, host.system_name, "labs are made for general-purpose Linux hosts, Debian's above all")
    found = kind.name if kind.name == host.system_name else f"{host.system_name}: {kind.name}"
    return HostCheckResult(id_, title, Level.FAIL if kind.refused else Level.WARN, found, kind.why, kind.fix)


def _clock(host: HostReadings) -> HostCheckResult:
    id_, title = "system.clock", "clock"
    why = "guests take their time from the host, and a wrong time invalidates certificates and MUNGE credentials"
    running = [name for process, name in CLOCKS.items() if process in host.processes]
    by = ", ".join(running)
    if host.clock_synchronised:
        # In a container the clock is kept outside; after a time service has ended the clock stays right for some hours.
        return ok(id_, title, f"synchronised; {by or 'no time service'} runs here", why)
    if running and host.clock_synchronised is None:
        return ok(id_, title, f"{by} runs; whether the clock is synchronised is unknown", why)
    if running:
        fix = "; ".join(_ASK[name] for name in running if name in _ASK) or "timedatectl"
        return HostCheckResult(
            id_, title, Level.WARN, f"{by} runs, but the clock is not known to be synchronised", why, fix
        )
    if host.processes_hidden:
        found = "others' processes are hidden from this user (hidepid)"
        return HostCheckResult(id_, title, Level.WARN, found, why, "sudo hyperscaler host check", unseen=True)
    fix = "apt-get install chrony, or systemctl enable --now systemd-timesyncd"
    return HostCheckResult(id_, title, Level.WARN, "no time service runs here", why, fix)


def _open_files(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "system.open-files", "open files"
    why = "libvirtd and QEMU start with this limit and keep files open for each guest"
    soft, hard = host.limits.open_files_soft, host.limits.open_files_hard
    needed = _FILES_BASE + _FILES_NODE * max(wanted.nodes, 4)
    if soft is None and hard is None:
        return ok(id_, title, "unlimited", why)
    found = f"soft limit {soft or 'unlimited'}, hard limit {hard or 'unlimited'}"
    if soft is not None and soft < needed:
        raise_to = max(4096, needed)
        fix = f"ulimit -n {raise_to}"
        if hard is not None and hard < raise_to:
            fix = f"in /etc/security/limits.d/hyperscaler.conf: * hard nofile {raise_to}; log in again, then {fix}"
        return HostCheckResult(id_, title, Level.WARN, f"{found}; about {needed} are needed", why, fix)
    return ok(id_, title, found, why)


def _inotify(host: HostReadings) -> HostCheckResult:
    id_, title = "system.inotify", "inotify instances"
    why = "every dnsmasq and libvirt daemon uses some; when they run out, networks do not start"
    limit = host.limits.inotify_instances
    if limit is None:
        return ok(id_, title, "no limit shown", why)
    if limit < INOTIFY_LEAST:
        fix = f"hyperscaler host prepare, or sysctl {INOTIFY_KEY}={INOTIFY_INSTANCES}"
        return HostCheckResult(id_, title, Level.WARN, f"{limit} for each user", why, fix)
    return ok(id_, title, f"{limit} for each user", why)


def _cgroups(host: HostReadings) -> HostCheckResult:
    id_, title = "system.cgroups", "cgroup controllers"
    why = "libvirt limits and counts guests' cores, memory and disk with them"
    version = host.cgroups.version
    if not version:
        fix = "boot with systemd, or mount -t cgroup2 none /sys/fs/cgroup"
        return HostCheckResult(id_, title, Level.WARN, "none mounted", why, fix)
    missing = [name for name in _CONTROLLERS if name not in host.cgroups.controllers]
    if missing:
        fix = f"remove cgroup_disable= from the kernel's arguments, or use a kernel with: {', '.join(missing)}"
        return HostCheckResult(id_, title, Level.WARN, f"version {version}, without {', '.join(missing)}", why, fix)
    return ok(id_, title, f"version {version}: {', '.join(_CONTROLLERS)}", why)
