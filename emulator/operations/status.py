"""Status: the labs of this host, and the nodes of one. It waits for no lock, so it answers while a command works on the
lab; the clusters themselves are asked last, with a patience that fits the host."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

from emulator.apply.handlers.service import trouble_of
from emulator.apply.lock import holder_of
from emulator.apply.state import State
from emulator.core import ids
from emulator.core.errors import ConfigError, ConflictError, HyperscalerError, UsageError
from emulator.core.ports import DomainInfo
from emulator.core.ports.services import ServiceInfo
from emulator.credentials.rotation_files import pending_rotations
from emulator.guests.verify.report import SUMMARY_SECONDS
from emulator.lab.environment import Environment
from emulator.lab.lab import Backends, open_lab
from emulator.lab.lab_files import lab_names, load_recorded_lab, require_lab_name
from emulator.lab.open_journal import LabRecord, open_record
from emulator.lab.planning.kubernetes_on_disks import on_the_way_to
from emulator.lab.planning.plan import HYPERVISOR_FACT, open_to_plan, plan_lab
from emulator.lab.recovery.ownership_conflicts import copy_notes
from emulator.labfile.model import ClusterSpec, NodeSpec
from emulator.operations.host.autostart import has_autostart
from emulator.plan.resources import Domain
from emulator.plan.service_resources import Service

DRIFT_LINES = 8
"""How many differences between record and host are listed one by one."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """`state`: libvirt's state of the domain, `absent`, or `unknown` with a hypervisor that does not answer."""

    name: str
    role: str
    ip: str
    cpu_cores: int
    memory_mib: int
    state: str


@dataclass(frozen=True, slots=True)
class LabStatus:
    """`busy` names the command that works on the lab now; `problems` need attention, `notes` do not; `services` are the
    processes that stay running for the lab."""

    name: str
    hypervisor: str
    phases: Mapping[str, str]
    nodes: tuple[NodeStatus, ...]
    clusters: Mapping[str, str]
    busy: str
    problems: tuple[str, ...]
    autostart: bool = False
    notes: tuple[str, ...] = ()
    services: tuple[ServiceInfo, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "lab": self.name,
            "hypervisor": self.hypervisor,
            "phases": dict(self.phases),
            "nodes": [
                {
                    "name": node.name,
                    "role": node.role,
                    "ip": node.ip,
                    "cpu_cores": node.cpu_cores,
                    "memory_mib": node.memory_mib,
                    "state": node.state,
                }
                for node in self.nodes
            ],
            "clusters": dict(self.clusters),
            "busy": self.busy,
            "autostart": self.autostart,
            "problems": list(self.problems),
            "notes": list(self.notes),
            "services": [
                {"name": info.name, "state": info.state.value, "reason": info.reason, "note": info.note}
                for info in self.services
            ],
        }


@dataclass(frozen=True, slots=True)
class LabLine:
    """One lab in the list of all. `problem` says why its record cannot be read; the figures are empty then."""

    name: str
    nodes: int
    resources: int
    verified: str
    busy: str
    problem: str = ""


def list_labs(env: Environment) -> tuple[LabLine, ...]:
    """All labs with a directory on this host."""
    lines = []
    for name in lab_names(env.home):
        busy = holder_of(env.home.locks / f"{name}.lock")
        try:
            state = open_record(env.home, name).state
        except HyperscalerError as error:  # one lab must not hide the others
            lines.append(LabLine(name, 0, 0, "unknown", busy, error.what))
            continue
        nodes = sum(1 for key in state.resources if key.startswith("domain/"))
        verified = state.facts.get("phase/verify", "never")
        lines.append(LabLine(name, nodes, len(state.resources), verified, busy))
    return tuple(lines)


def lab_status(env: Environment, name: str, *, on_known: Callable[[LabStatus, float], None] | None = None) -> LabStatus:
    """One lab: what is recorded, what libvirt says, what Slurm and Kubernetes say.

    A lab whose first `provision` has just begun has no file yet: it is reported as far as it is known.

    Args:
        env: everything outside the program.
        name: of the lab.
        on_known: called before the clusters are asked, with all else that is known and the seconds that they have to
            answer; not called when there is none to ask.

    Raises:
        UsageError: there is no such lab.
    """
    require_lab_name(name)
    busy = holder_of(env.home.locks / f"{name}.lock")
    try:
        record = open_record(env.home, name)
    except ConflictError as error:  # a copy of another lab, or one that was renamed: nothing in it can be followed
        return LabStatus(name, "", {}, (), {}, busy, (f"{error.what}; {error.fix}",), has_autostart(env, name))
    state = record.state
    try:
        spec = load_recorded_lab(env.home, name).spec
    except UsageError:
        if not (busy or env.home.lab(name).root.is_dir()):
            raise
        return _unfinished(env, name, state, busy, "its file is missing")
    except ConfigError:
        return _unfinished(env, name, state, busy, f"its file ({env.home.lab(name).spec}) is damaged")
    known = _known(env, record, spec, busy)
    running = {node.name for node in known.nodes if node.state == "running"}
    answering = [node.role.cluster for node in spec.nodes if node.role.is_head and node.name in running]
    if not answering:
        return known
    access = open_lab(env, record, Backends(known.hypervisor)).access(spec.ssh.user, pace=env.pace(spec))
    if on_known is not None:
        on_known(known, access.pace.seconds(SUMMARY_SECONDS))
    return replace(known, clusters=env.guests.cluster_state(spec, access, answering))


def _known(env: Environment, record: LabRecord, spec: ClusterSpec, busy: str) -> LabStatus:
    """What is known of a lab without asking its nodes."""
    name, state = record.name, record.state
    hypervisor = state.facts.get(HYPERVISOR_FACT, "")
    problems = [f"journal line {damage.line}: {damage.why}" for damage in record.store.damage if not damage.torn]
    domains, trouble = _domains(env, record, hypervisor)
    problems += trouble
    nodes = tuple(_node(spec, node, domains) for node in spec.nodes)
    problems += [f"{node.name} is {node.state}" for node in nodes if node.state != "running"]
    problems += [
        f"{each.resource.id}: an interrupted {each.open_action} is open"
        for each in state.resources.values()
        if each.open_action
    ]
    problems += _rotations(env, name)
    if (goal := on_the_way_to(state)) and not busy:
        problems.append(
            f"an upgrade to Kubernetes {goal} did not end; `hyperscaler upgrade {name} --to {goal} --file FILE` goes on"
            " with it"
        )
    services = env.supervisor(record.paths.supervisor).services()
    down = {f"{Service.kind}/{info.name}": trouble_of(info) for info in services if trouble_of(info)}
    problems += [f"{key}: {'; '.join(trouble)}" for key, trouble in down.items()]
    notes: tuple[str, ...] = ()
    if domains is not None and not busy:
        stopped = {f"{Domain.kind}/{node.name}" for node in nodes if node.state not in ("running", "absent")}
        drift, notes = _drift(env, record, spec, shown={*stopped, *down})
        problems += drift
    phases = {key.removeprefix("phase/"): value for key, value in state.facts.items() if key.startswith("phase/")}
    autostart = has_autostart(env, name)
    return LabStatus(name, hypervisor, phases, nodes, {}, busy, tuple(problems), autostart, notes, services)


def _rotations(env: Environment, name: str) -> list[str]:
    try:
        pending = pending_rotations(env.home.lab(name))
    except HyperscalerError as error:
        return [error.what]
    return [
        f"the rotation of {files.secret} did not end; `hyperscaler rotate {name} {files.secret}` goes on with it"
        for files in pending
    ]


def _unfinished(env: Environment, name: str, state: State, busy: str, why: str) -> LabStatus:
    """A lab without its file: `provision` has not written it yet, or the file was lost or damaged."""
    problem = "being made" if busy else f"{why}; provision it again from your own, or destroy it"
    hypervisor = state.facts.get(HYPERVISOR_FACT, "")
    return LabStatus(name, hypervisor, {}, (), {}, busy, (problem,), has_autostart(env, name))


def _domains(
    env: Environment, record: LabRecord, hypervisor: str
) -> tuple[Mapping[UUID, DomainInfo] | None, list[str]]:
    """The domains by UUID, since one may have been renamed."""
    if not hypervisor:
        return {}, ["the lab was never provisioned to the end"]
    try:
        connection = open_lab(env, record, Backends(hypervisor)).session.peek()
        if connection is None:
            return None, ["its hypervisor does not run; `hyperscaler provision` brings it back"]
        return {info.uuid: info for info in connection.domains()}, []
    except HyperscalerError as error:
        return None, [error.what]


def _node(spec: ClusterSpec, node: NodeSpec, domains: Mapping[UUID, DomainInfo] | None) -> NodeStatus:
    uuid = ids.resource_uuid(spec.name, f"{Domain.kind}/{node.name}")
    info = domains.get(uuid) if domains is not None else None
    state = info.state.value if info else ("absent" if domains is not None else "unknown")
    return NodeStatus(node.name, node.role.value, str(node.ip), node.cpu_cores, node.memory_mib, state)


def _drift(
    env: Environment, record: LabRecord, spec: ClusterSpec, *, shown: Collection[str]
) -> tuple[list[str], tuple[str, ...]]:
    """What `provision` of the recorded file would change now, a line each, and what it would leave alone.

    Resources in `shown` are left out, since they are reported already.
    """
    try:
        lab = open_to_plan(env, record, spec)
        plan = plan_lab(lab, record.state, spec, env.accelerate(spec.hypervisor.acceleration))
        notes = copy_notes(lab)
    except HyperscalerError as error:
        return [f"cannot be compared with the host: {error.what.splitlines()[0]}"], ()
    lines = [f"{blocker.resource_id}: {blocker.what}" for blocker in plan.blockers]
    for change in plan.changes:
        if change.resource.id not in shown:
            lines.append(f"{change.resource.id}: {change.reason} ({change.action.value} by `hyperscaler provision`)")
    listed = lines[:DRIFT_LINES]
    return [*listed, *([f"and {len(lines) - len(listed)} more"] if len(lines) > len(listed) else [])], notes
