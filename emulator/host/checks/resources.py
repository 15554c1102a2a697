"""Memory, disk, cores and huge pages, compared with the lab file, or without one with the demo lab."""

from __future__ import annotations

from collections.abc import Iterator

from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.facts import HostFacts
from emulator.host.readings import HostReadings
from emulator.labfile.findings import Finding, Severity

# Needs of the demo lab, as in README.md.
DEMO_CORES = 2
DEMO_MEMORY_MIB = 12 * 1024
DEMO_DISK_GIB = 15


def check_resources(host: HostReadings, wanted: Wanted) -> Iterator[HostCheckResult]:
    """The resources of the host, and whether they are enough."""
    facts = host.facts
    gib = facts.memory_total_mib / 1024
    free = facts.memory_available_mib / 1024
    yield _resource(
        wanted,
        "memory",
        f"{gib:.1f} GiB{_reserved(facts)}, {free:.1f} GiB of it free",
        ("host.memory", "host.memory-available"),
        # A host with 12 GiB reports a little less.
        enough=facts.memory_usable_mib >= DEMO_MEMORY_MIB * 0.95,
        demo=f"{DEMO_MEMORY_MIB // 1024} GiB",
        why="guests that do not fit into memory fail to start, or are killed",
        fix="close other programs, or make a smaller lab (config/minimal.yaml)",
    )
    yield _resource(
        wanted,
        "disk",
        f"{facts.disk_free_gib:.1f} GiB free",
        ("host.disk", "host.disk-thin"),
        enough=facts.disk_free_gib >= DEMO_DISK_GIB,
        demo=f"{DEMO_DISK_GIB} GiB",
        why="golden images and guests' disks grow there; a guest whose disk cannot grow stops",
        fix="hyperscaler image gc, or HYPERSCALER_HOME=/a/larger/disk hyperscaler ...",
    )
    yield _resource(
        wanted,
        "cores",
        f"{facts.cores}",
        ("host.cores",),
        enough=facts.cores >= DEMO_CORES,
        demo=f"{DEMO_CORES}",
        why="guests share the cores; with too few everything is slow and runs into time limits",
        fix="lower cpu_cores of the nodes; nproc prints what this process may use",
    )
    yield _huge_pages(host)


def _resource(
    wanted: Wanted,
    name: str,
    found: str,
    codes: tuple[str, ...],
    *,
    enough: bool,
    demo: str,
    why: str,
    fix: str,
) -> HostCheckResult:
    id_ = f"resource.{name}"
    if wanted.lab:
        finding = next((each for each in wanted.findings if each.code in codes), None)
        if finding is not None:
            return of_finding(id_, name, finding, why)
        return ok(id_, name, f"{found}: enough for {wanted.lab}", why)
    if not enough:
        return HostCheckResult(id_, name, Level.WARN, f"{found}; the demo lab needs {demo}", why, fix)
    return ok(id_, name, found, why)


def of_finding(id_: str, title: str, finding: Finding, why: str) -> HostCheckResult:
    """A finding about the lab file on this host as the result of a check."""
    level = Level.FAIL if finding.severity is Severity.ERROR else Level.WARN
    return HostCheckResult(id_, title, level, f"{finding.where}: {finding.what}", why, finding.fix)


def _reserved(facts: HostFacts) -> str:
    reserved = facts.memory_reserved_mib
    return f" ({reserved / 1024:.1f} GiB reserved as huge pages)" if reserved else ""


def _huge_pages(host: HostReadings) -> HostCheckResult:
    id_, title = "resource.hugepages", "huge pages"
    why = "labs use ordinary pages, so reserved huge pages are lost to their guests"
    reserved = host.facts.memory_reserved_mib
    if not reserved:
        return ok(id_, title, "none reserved", why)
    found = f"{reserved / 1024:.1f} GiB reserved"
    if reserved * 4 > host.facts.memory_total_mib:
        fix = "sysctl vm.nr_hugepages=0, and remove the reservation from /etc/sysctl.d and the kernel's arguments"
        return HostCheckResult(id_, title, Level.WARN, found, why, fix)
    return ok(id_, title, found, why)
