"""All checks of a host, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from emulator.host.checks.firewalls import check_firewalls
from emulator.host.checks.gpus import check_gpus
from emulator.host.checks.iommu import check_iommu
from emulator.host.checks.networks import check_networks
from emulator.host.checks.processor import check_processor
from emulator.host.checks.programs import check_programs
from emulator.host.checks.resources import check_resources
from emulator.host.checks.result import HostCheckResult, Level, Wanted
from emulator.host.checks.system import check_system
from emulator.host.readings import HostReadings

Check = Callable[[HostReadings, Wanted], Iterable[HostCheckResult]]

# What people read above a group -> its checks.
GROUPS: tuple[tuple[str, Check], ...] = (
    ("Processor and devices", check_processor),
    ("IOMMU", check_iommu),
    ("GPUs", check_gpus),
    ("Programs and users", check_programs),
    ("Resources", check_resources),
    ("Networks and neighbours", check_networks),
    ("Firewalls", check_firewalls),
    ("System", check_system),
)


@dataclass(frozen=True, slots=True)
class CheckGroup:
    title: str
    results: tuple[HostCheckResult, ...]


@dataclass(frozen=True, slots=True)
class HostReport:
    """All results of one host."""

    groups: tuple[CheckGroup, ...]

    @property
    def results(self) -> tuple[HostCheckResult, ...]:
        return tuple(result for group in self.groups for result in group.results)

    def count(self, level: Level) -> int:
        return sum(result.level is level for result in self.results)

    @property
    def unseen(self) -> int:
        return sum(result.unseen for result in self.results)

    @property
    def failed(self) -> bool:
        return self.count(Level.FAIL) > 0


def check_host_readings(host: HostReadings, wanted: Wanted) -> HostReport:
    """Every check, whatever the others say."""
    return HostReport(tuple(CheckGroup(title, tuple(check(host, wanted))) for title, check in GROUPS))
