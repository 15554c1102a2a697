"""Validate: the file alone, and on request against this machine."""

from __future__ import annotations

from pathlib import Path

from emulator.app.files import LoadedLab, load_lab_file
from emulator.app.world import EMBEDDED, World
from emulator.apply.state import State
from emulator.errors import HostNotFitError
from emulator.host.facts import HostFacts
from emulator.plan.resources import Network
from emulator.progress import Reporter
from emulator.spec.feasibility import check_host
from emulator.spec.findings import Report


def judge_host(loaded: LoadedLab, facts: HostFacts, *, hypervisor: str, state: State | None = None) -> Report:
    """The file's report with what this host has to say; a lab's own nodes and bridges do not count against it."""
    if loaded.maybe_spec is None:
        return loaded.report
    resources = state.resources if state else {}
    networks = [record.resource for record in resources.values() if isinstance(record.resource, Network)]
    findings = check_host(
        loaded.spec,
        facts,
        report=loaded.report,
        private_network=hypervisor == EMBEDDED,
        own_bridges=[network.bridge for network in networks],
        existing=[key.removeprefix("domain/") for key in resources if key.startswith("domain/")],
    )
    return loaded.report.extended(findings)


def require_fit(world: World, loaded: LoadedLab, hypervisor: str, state: State, reporter: Reporter) -> None:
    """Tell what this machine has to say about a valid file.

    Raises:
        HostNotFitError: the lab cannot run here.
    """
    report = judge_host(loaded, world.host_facts(), hypervisor=hypervisor, state=state)
    for finding in report.warnings:
        if finding not in loaded.report.warnings:
            reporter.warn(f"{finding.where}: {finding.path}: {finding.what}")
    if report.errors:
        first = report.errors[0]
        more = f" (and {len(report.errors) - 1} more; see `hyperscaler validate --host`)" if report.errors[1:] else ""
        raise HostNotFitError(
            f"{loaded.spec.name} does not fit on this host: {first.what}{more}", where=first.where, fix=first.fix
        )


def validate(file: Path, world: World | None) -> Report:
    """All findings about a file; with a `world` those about this machine, too."""
    loaded = load_lab_file(file)
    if world is None or loaded.maybe_spec is None:
        return loaded.report
    hypervisor = world.choose_hypervisor(loaded.spec.hypervisor.uri)
    return judge_host(loaded, world.host_facts(), hypervisor=hypervisor)
