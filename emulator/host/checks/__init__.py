"""Which checks are there? All checks of a host, in the order of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from emulator.core.units import printable
from emulator.host.checks.firewalls import check_firewalls
from emulator.host.checks.gpus import check_gpus
from emulator.host.checks.iommu import check_iommu
from emulator.host.checks.networks import check_networks
from emulator.host.checks.processor import check_architecture, check_processor
from emulator.host.checks.programs import check_programs
from emulator.host.checks.resources import check_resources
from emulator.host.checks.result import HostCheckResult, Level, Wanted
from emulator.host.checks.system import check_system
from emulator.host.readings import HostReadings

Check = Callable[[HostReadings, Wanted], Iterable[HostCheckResult]]

# Heading of a group -> its checks.
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
    """The results of all checks; on any architecture but x86-64 only the one that says so."""
    architecture = check_architecture(host)
    if architecture.level is Level.FAIL:
        return HostReport((CheckGroup(GROUPS[0][0], (architecture,)),))
    return HostReport(tuple(CheckGroup(title, tuple(map(_printable, check(host, wanted)))) for title, check in GROUPS))


def _printable(result: HostCheckResult) -> HostCheckResult:
    """No escape sequence reaches the terminal: users choose the names of their processes, and others have written a
    recorded host."""
    found, why, fix = (printable(text).replace("\n", " ") for text in (result.found, result.why, result.fix))
    return replace(result, found=found, why=why, fix=fix)
