"""The figures of this host: cores, memory, disk and networks, read from /proc and statvfs without any program."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emulator.core.units import GIB, MIB, natural
from emulator.host.routes import HostNetwork, reached_networks


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Figures of the host.

    Attributes:
        cores: CPUs that this process may use.
        memory_total_mib: memory of the host, or of the control group that this process is confined to.
        memory_available_mib: memory that can be used now without swapping (`MemAvailable`).
        memory_reserved_mib: the part of the total that is reserved as huge pages, which labs' guests do not use.
        disk_free_gib: free space for an ordinary user on the file system of the program's home directory.
        networks: routes of the main table, those of IPv4 first, except default (whole or in pieces), loopback,
            link-local and multicast.
        interfaces: names of all network interfaces in this network namespace.
    """

    cores: int
    memory_total_mib: int
    memory_available_mib: int
    disk_free_gib: float
    networks: tuple[HostNetwork, ...] = ()
    interfaces: tuple[str, ...] = ()
    memory_reserved_mib: int = 0

    @property
    def memory_usable_mib(self) -> int:
        return self.memory_total_mib - self.memory_reserved_mib


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """MiB; see `HostFacts`."""

    total: int
    available: int
    reserved: int


CGROUP_MEMORY = (
    ("memory.max", "memory.current"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
)
"""Limit and use of memory of the control group that a container is confined to, in versions 2 and 1."""


def read_host_facts(home: Path) -> HostFacts:
    """The facts of this host; where `home` does not exist yet, the nearest directory above it counts."""
    memory = _memory(_read_text(Path("/proc/meminfo")), cgroup=Path("/sys/fs/cgroup"))
    return HostFacts(
        cores=len(os.sched_getaffinity(0)),
        memory_total_mib=memory.total,
        memory_available_mib=memory.available,
        memory_reserved_mib=memory.reserved,
        disk_free_gib=disk_free_gib(home),
        networks=reached_networks(_read_text(Path("/proc/net/route")), _read_text(Path("/proc/net/ipv6_route"))),
        interfaces=tuple(sorted(name for _, name in socket.if_nameindex())),
    )


def parse_meminfo(text: str) -> Mapping[str, int]:
    """`/proc/meminfo` as MiB by name; lines in other units than kB are left out."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if len(words) == 2 and words[1] == "kB" and (kib := natural(words[0])) is not None:
            found[name] = kib // 1024
    return found


def _memory(meminfo: str, *, cgroup: Path) -> MemoryFigures:
    """A control group with a limit makes the figures smaller."""
    pairs = ([_read_text(cgroup / name).strip() for name in pair] for pair in CGROUP_MEMORY)
    limit, used = next(filter(any, pairs), ("", ""))
    return limited_memory(meminfo, limit=limit, used=used)


def limited_memory(meminfo: str, *, limit: str, used: str) -> MemoryFigures:
    """From `/proc/meminfo`, made smaller by the texts of `memory.max` and `memory.current`."""
    figures = parse_meminfo(meminfo)
    total, available = figures.get("MemTotal", 0), figures.get("MemAvailable", 0)
    usable = max(total - reserved_huge_pages(meminfo), 0)
    most, taken = natural(limit), natural(used)
    if most is not None:
        # The limit applies to ordinary memory; huge pages are counted separately.
        total, usable = (min(figure, most // MIB) for figure in (total, usable))
        if taken is not None:
            available = min(available, max(most - taken, 0) // MIB)
    return MemoryFigures(total, available, total - usable)


def reserved_huge_pages(meminfo: str) -> int:
    """MiB of memory reserved as huge pages of every size; kernels before 4.19 (no `Hugetlb`) report only the default
    size."""
    figures = parse_meminfo(meminfo)
    if "Hugetlb" in figures:
        return figures["Hugetlb"]
    lines = (line.partition(":") for line in meminfo.splitlines())
    pages = next((natural(value.strip()) for name, _, value in lines if name == "HugePages_Total"), None)
    return (pages or 0) * figures.get("Hugepagesize", 0)


def disk_free_gib(home: Path) -> float:
    """Free GiB for an ordinary user on the file system of `home`, or of the nearest directory above it."""
    place = home.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    figures = os.statvfs(place)
    return figures.f_bavail * figures.f_frsize / GIB


def _read_text(path: Path) -> str:
    """The file's text; empty where the kernel does not offer it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
