"""Validate: the file alone, and on request against this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from emulator.apply.state import State
from emulator.core.errors import ConflictError, HostNotFitError, HyperscalerError
from emulator.core.hypervisors import EMBEDDED
from emulator.core.progress import Reporter
from emulator.core.units import printable
from emulator.host.acceleration import AccelerationDecision
from emulator.host.facts import HostFacts
from emulator.host.feasibility import CONFLICTS, check_host
from emulator.images.store.refs import parse_reference
from emulator.lab.environment import Environment, host_gpus
from emulator.lab.lab import Lab
from emulator.lab.lab_files import LoadedLab, bundle_of, load_lab_file
from emulator.lab.open_journal import open_record
from emulator.lab.planning.gpu_placement import plan_gpus
from emulator.lab.planning.plan import open_to_plan
from emulator.labfile.findings import Finding, Report, Severity
from emulator.labfile.model import ClusterKind, GpuBackend
from emulator.plan.resources import Domain, Network, Resource, Volume


def judge_host(loaded: LoadedLab, facts: HostFacts, lab: Lab, state: State) -> Report:
    """The file's report with the findings on this host; a lab's own nodes and bridges do not count against it.

    Its own are those on record, and those with its marks, since a record can be lost.
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
    """Findings on a host for a valid file.

    Args:
        loaded: the file.
        facts: of the host.
        ours: resources that the lab has on the host already.
        private_network: the lab's networks are in a namespace of their own.
        holders: who has which bridge, by the bridge's name.
    """
    return check_host(
        loaded.spec,
        facts,
        report=loaded.report,
        private_network=private_network,
        own_bridges=[item.bridge for item in ours if isinstance(item, Network)],
        existing=[item.name for item in ours if isinstance(item, Domain)],
        holders=holders,
    )


def check_on_host(
    env: Environment, loaded: LoadedLab, lab: Lab, state: State, reporter: Reporter
) -> AccelerationDecision:
    """Check that the lab of a valid file can run on this host, and decide whether its guests run under KVM.

    Raises:
        ConflictError: a bridge or subnet of the lab is in use by others.
        HostNotFitError: the lab cannot run here.
    """
    acceleration = env.accelerate(loaded.spec.hypervisor.acceleration)
    if acceleration.warning:
        reporter.warn(acceleration.warning)
    report = judge_host(loaded, env.host_facts(), lab, state).extended(judge_gateway(env, loaded))
    _require_fit(loaded, report, reporter)
    return acceleration


def _require_fit(loaded: LoadedLab, report: Report, reporter: Reporter) -> None:
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


def validate(file: Path, env: Environment | None, stream: BinaryIO | None = None) -> Report:
    """All findings about a file; with an `env` those about this host, too.

    Args:
        stream: read in place of the file, such as standard input; `file` is then its name.
    """
    loaded = load_lab_file(file, stream)
    if env is None or loaded.maybe_spec is None:
        return loaded.report
    name = loaded.spec.name
    record = open_record(env.home, name)
    lab = open_to_plan(env, record, loaded.spec)
    report = judge_host(loaded, env.host_facts(), lab, record.state)
    return report.extended(
        (
            *judge_gpus(env, loaded, record.state),
            *judge_bundle(loaded, record.state),
            *judge_gateway(env, loaded),
        )
    )


def judge_gateway(env: Environment, loaded: LoadedLab) -> tuple[Finding, ...]:
    """Whether the host has a gateway, if the lab's users are to come in by it."""
    if not loaded.spec.access.gateway or env.door() is not None:
        return ()
    what = "the lab's users are to come in by this host's gateway, and it is off"
    fix = "hyperscaler host enable-gateway, as root"
    return (loaded.report.finding(Severity.ERROR, "host.gateway", "access.gateway", what, fix),)


def judge_bundle(loaded: LoadedLab, state: State) -> tuple[Finding, ...]:
    """Whether the file's Kubernetes bundle exists, if needed: for new disks of an image that follows its recipe."""
    spec = loaded.spec
    path, image = bundle_of(spec), parse_reference(spec.images.of(ClusterKind.CLOUD))
    disks = {record.resource.name for record in state.resources.values() if isinstance(record.resource, Volume)}
    to_come = [node for node in spec.nodes_of(ClusterKind.CLOUD) if node.name not in disks]
    if path is None or not to_come or (image is not None and image.fixed) or Path(path).is_file():
        return ()
    fix = "correct the path, which counts from the directory of this file, or make one: hyperscaler bundle create"
    field, what = "clusters.cloud.kubernetes_config.source", f"there is no bundle {printable(path)}"
    return (loaded.report.finding(Severity.ERROR, "kubernetes.bundle", field, what, fix),)


def judge_gpus(env: Environment, loaded: LoadedLab, state: State) -> tuple[Finding, ...]:
    """Whether the host's GPUs can serve the file, as a plan would find it; simulated GPUs always can."""
    spec = loaded.spec
    if not spec.gpu.devices or spec.gpu.backend is GpuBackend.SIMULATED:
        return ()
    host = host_gpus(env)
    try:
        plan_gpus(spec, host, state)
    except HyperscalerError as error:
        path = error.where if error.where.startswith("global.") else "global.gpu_allocation"
        return (loaded.report.finding(Severity.ERROR, "gpu.host", path, error.what, error.fix),)
    finally:
        host.nvml.close()
    return ()
