"""Validate: the file alone, and on request against this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from emulator.apply.state import State
from emulator.core.errors import ConflictError, HostNotFitError, HyperscalerError
from emulator.core.progress import Reporter
from emulator.core.units import printable
from emulator.host.facts import HostFacts
from emulator.host.feasibility import CONFLICTS, check_host
from emulator.images.store.refs import parse_reference
from emulator.lab.environment import EMBEDDED, World
from emulator.lab.lab import Lab, open_lab
from emulator.lab.lab_files import LoadedLab, bundle_of, load_lab_file
from emulator.lab.open_journal import open_record
from emulator.lab.planning.gpu_placement import plan_gpus
from emulator.lab.planning.host_gpus import host_gpus
from emulator.lab.planning.plan import backends_of
from emulator.labfile.findings import Finding, Report, Severity
from emulator.labfile.model import ClusterKind, GpuBackend
from emulator.plan.resources import Domain, Network, Resource, Volume


def judge_host(loaded: LoadedLab, facts: HostFacts, lab: Lab, state: State) -> Report:
    """The file's report with what this host has to say; a lab's own nodes and bridges do not count against it.

    Its own are those on record, and those that bear its marks, since a record can be lost.
    """
    if loaded.maybe_spec is None:
        return loaded.report
    ours = [record.resource for record in state.resources.values()]
    ours += [item for kind in (Network.kind, Domain.kind) for item in lab.handlers[kind].find(lab.name)]
    view = lab.session.view()
    holders = {
        info.bridge: f"network {info.name} ({lab.identity.whose_is(info)})"
        for info in (view.networks() if view else ())
    }
    private = lab.backends.hypervisor == EMBEDDED
    return loaded.report.extended(host_findings(loaded, facts, ours, private_network=private, holders=holders))


def host_findings(
    loaded: LoadedLab,
    facts: HostFacts,
    ours: Sequence[Resource],
    *,
    private_network: bool,
    holders: Mapping[str, str] | None = None,
) -> list[Finding]:
    """What a host has to say about a valid file; `ours` is what the lab has on it already, `holders` whose the
    bridges are."""
    return check_host(
        loaded.spec,
        facts,
        report=loaded.report,
        private_network=private_network,
        own_bridges=[item.bridge for item in ours if isinstance(item, Network)],
        existing=[item.name for item in ours if isinstance(item, Domain)],
        holders=holders,
    )


def require_fit(world: World, loaded: LoadedLab, lab: Lab, state: State, reporter: Reporter) -> None:
    """Tell what this machine has to say about a valid file.

    Raises:
        ConflictError: somebody else has a bridge or a subnet of the lab.
        HostNotFitError: the lab cannot run here.
    """
    report = judge_host(loaded, world.host_facts(), lab, state)
    for finding in report.warnings:
        if finding not in loaded.report.warnings:
            reporter.warn(f"{finding.where}: {finding.path}: {finding.what}")
    if report.errors:
        first = report.errors[0]
        more = f" (and {len(report.errors) - 1} more; see `hyperscaler validate --host`)" if report.errors[1:] else ""
        kind = ConflictError if first.code in CONFLICTS else HostNotFitError
        raise kind(
            f"{loaded.spec.name} does not fit on this host: {first.what}{more}", where=first.where, fix=first.fix
        )


def validate(file: Path, world: World | None, stream: BinaryIO | None = None) -> Report:
    """All findings about a file; with a `world` those about this machine, too.

    Args:
        stream: what to judge in place of the file, such as standard input; `file` is then its name.
    """
    loaded = load_lab_file(file, stream)
    if world is None or loaded.maybe_spec is None:
        return loaded.report
    name = loaded.spec.name
    world, store = open_record(world, name)
    state = store.state
    lab = open_lab(world, name, backends_of(world, state, loaded.spec, dry=True))
    report = judge_host(loaded, world.host_facts(), lab, state)
    return report.extended((*judge_gpus(world, loaded, state), *judge_bundle(loaded, state)))


def judge_bundle(loaded: LoadedLab, state: State) -> tuple[Finding, ...]:
    """Whether the bundle that the file names is there, where one is needed: for disks that are to be made of an image
    that follows the recipe."""
    spec = loaded.spec
    path, image = bundle_of(spec), parse_reference(spec.images.cloud)
    disks = {record.resource.name for record in state.resources.values() if isinstance(record.resource, Volume)}
    to_come = [node for node in spec.nodes_of(ClusterKind.CLOUD) if node.name not in disks]
    if path is None or not to_come or (image is not None and image.fixed) or Path(path).is_file():
        return ()
    field = "clusters.cloud.kubernetes_config.source"
    place = loaded.report.position_of(field)
    finding = Finding(
        Severity.ERROR,
        "kubernetes.bundle",
        loaded.report.file,
        place.line,
        place.column,
        field,
        f"there is no bundle {printable(path)}",
        "correct the path, which counts from the directory of this file, or make one: hyperscaler bundle create",
    )
    return (finding,)


def judge_gpus(world: World, loaded: LoadedLab, state: State) -> tuple[Finding, ...]:
    """What keeps the host's GPUs from serving the file, as a plan would find it; simulated GPUs always serve."""
    spec = loaded.spec
    if not spec.gpu.devices or spec.gpu.backend is GpuBackend.SIMULATED:
        return ()
    host = host_gpus(world)
    try:
        plan_gpus(spec, host, state)
    except HyperscalerError as error:
        path = error.where if error.where.startswith("global.") else "global.gpu_allocation"
        place = loaded.report.position_of(path)
        finding = Finding(
            Severity.ERROR, "gpu.host", loaded.report.file, place.line, place.column, path, error.what, error.fix
        )
        return (finding,)
    finally:
        host.nvml.close()
    return ()
