"""Where the guests' packages come from: Debian's archive, in the sources of the host's own apt."""

from __future__ import annotations

from collections.abc import Iterator

from emulator.core.debian.releases import Release
from emulator.host.checks.result import HostCheckResult, Level, ok
from emulator.host.readings import HostReadings

# What Debian's own sources may say: code names from 12 on, and their places.
_DEBIAN = frozenset({*Release, "sid", "oldstable", "stable", "testing", "unstable"})
_WHY = (
    "guests are Debian on every host: their images, and container images and tools of Kubernetes, are made from "
    "packages of its archive, by the sources and keys that the host's apt has"
)


def has_debian_sources(host: HostReadings) -> bool:
    """Whether apt has sources of a Debian release, on whatever system."""
    return bool(host.apt_suites & _DEBIAN)


def check_archives(host: HostReadings) -> Iterator[HostCheckResult]:
    """The sources of the guests' packages, on a host with apt."""
    id_, title = "program.archives", "guests' packages"
    if "apt-get" not in host.programs:
        return
    if has_debian_sources(host):
        found = ", ".join(sorted(host.apt_suites & _DEBIAN))
        yield ok(id_, title, f"apt has sources of Debian ({found})", _WHY)
        return
    yield HostCheckResult(
        id_,
        title,
        Level.WARN,
        f"apt of {host.system_name} has no sources of Debian",
        _WHY,
        "add a mirror of Debian's archive from which this host itself takes nothing:"
        " hyperscaler host prepare --dry-run says how",
    )
