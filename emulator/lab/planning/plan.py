"""Look at the host, and plan against it. Reads only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emulator.apply.handler import Handler
from emulator.apply.hypervisor_location import remembered_hypervisor
from emulator.apply.state import State
from emulator.core.errors import ConflictError, HypervisorError, StateError
from emulator.core.hypervisors import EMBEDDED, SYSTEM_URI, SystemHypervisor
from emulator.core.pool import threads
from emulator.core.ports import DaemonPresence
from emulator.host.acceleration import AccelerationDecision
from emulator.lab.environment import Environment
from emulator.lab.lab import Backends, Lab, open_lab
from emulator.lab.names import namespace_name
from emulator.lab.open_journal import LabRecord
from emulator.lab.planning.gpu_placement import GPU_FACT, backend_of, gpu_layout_held, plan_gpus
from emulator.lab.planning.kubernetes_on_disks import (
    follow_control_plane,
    name_contents,
    newer_version_note,
    refuse_other_version,
    wanted_kubernetes,
)
from emulator.lab.planning.release_on_disks import keep_releases
from emulator.lab.recovery.ownership_conflicts import copy_notes, disk_blockers, lost_blockers
from emulator.labfile.checks.network import NAT_EMBEDDED, UPGRADES_EMBEDDED
from emulator.labfile.model import ClusterSpec
from emulator.plan.build import Placement, build
from emulator.plan.diff import diff
from emulator.plan.model import Observation, Plan, Presence, Recorded
from emulator.plan.resources import Hypervisor, Resource, Volume

HYPERVISOR_FACT = "hypervisor"


def open_to_plan(env: Environment, record: LabRecord, spec: ClusterSpec) -> Lab:
    """Open the lab of this file on what it runs on, or would run on; nothing is written until `Lab.allow_changes`.

    Raises:
        ConflictError: the lab is on another hypervisor, or has other GPUs, than the file asks for.
        HypervisorError: see `system_may_have`.
    """
    backends = Backends(
        hypervisor_of(env, record, spec),
        backend_of(record.state, spec),
        spec.gpu.devices or None,
        dry=True,
        kubernetes=wanted_kubernetes(record.state, spec),
        timeouts=spec.timeouts,
    )
    return open_lab(env, record, backends)


def hypervisor_of(env: Environment, record: LabRecord, spec: ClusterSpec) -> str:
    """`embedded` or the libvirt URI that the lab runs on: the recorded one, since a lab does not move.

    Raises:
        ConflictError: the file now asks for another one.
        HypervisorError: see `system_may_have`.
    """
    recorded = recorded_hypervisor(env, record)
    wanted = spec.hypervisor.uri
    if recorded and wanted not in ("auto", recorded):
        raise ConflictError(
            f"the lab runs on hypervisor {recorded}, the file now asks for {wanted}",
            where="hypervisor.uri",
            fix=f"set it back to {recorded}, or `hyperscaler destroy {spec.name}` first",
        )
    if not recorded and wanted == "auto":
        system_may_have(env, spec.name)
    return recorded or env.choose_hypervisor(wanted)


def recorded_hypervisor(env: Environment, record: LabRecord) -> str:
    """The hypervisor of a lab by its journal, failing that by traces outside the journal; empty if there are none."""
    fact = record.state.facts.get(HYPERVISOR_FACT, "")
    return fact or _embedded_already(env, record) or remembered_hypervisor(record.home, record.name)


def system_may_have(env: Environment, name: str) -> bool:
    """Whether the host's own libvirt answers, so that a lab without a record is to be looked for there.

    Raises:
        HypervisorError: it does not answer, and its files show that it may have the lab.
    """
    seen = env.system_hypervisor(name)
    if seen is SystemHypervisor.SILENT:
        raise HypervisorError(
            f"nothing was changed: no record says where lab {name} runs, and the host's libvirt, which has machines "
            "or networks of such a name, does not answer",
            where=SYSTEM_URI,
            fix="start libvirtd (systemctl start libvirtd), then run the same command again",
        )
    return seen is SystemHypervisor.ANSWERS


def _embedded_already(env: Environment, record: LabRecord) -> str:
    """`embedded` for a lab whose journal does not say so, but that has a libvirtd of its own; else empty."""
    daemon = env.daemon(record.paths.hypervisor, namespace_name(record.home, record.name))
    marked = any(isinstance(item.resource, Hypervisor) for item in record.state.resources.values())
    return EMBEDDED if marked or daemon.presence() is not DaemonPresence.ABSENT else ""


def recorded_backends(state: State) -> Backends:
    """What a lab runs on, according to its journal alone."""
    return Backends(state.facts.get(HYPERVISOR_FACT, ""), state.facts.get(GPU_FACT, ""))


def plan_lab(lab: Lab, state: State, spec: ClusterSpec, acceleration: AccelerationDecision) -> Plan:
    """What `provision` would do."""
    placement = Placement(lab.paths, lab.namespace, acceleration.accelerated, lab.backends.hypervisor)
    gpus = plan_gpus(spec, lab.gpus() if lab.gpus else None, state, lab.passed() if lab.gpus else ())
    recorded = dict(state.resources)
    spec, releases = keep_releases(spec, recorded, lambda node: _image_under(lab, node))
    wanted = build(spec, placement, gpus.resources)
    with lab.session.pictured():
        seen = observe(lab, state, spec, wanted)
        plan = name_contents(lab.images, diff(lab.name, wanted, recorded, seen, find(lab)))
        copies = copy_notes(lab)
        ids = {resource.id for resource in wanted}
        blockers = lost_blockers(lab, [item.resource for key, item in recorded.items() if key not in ids])
    return dataclasses.replace(
        plan,
        blockers=(*plan.blockers, *refuse_other_version(lab.images, spec, state, seen, plan), *blockers),
        notes=(
            *plan.notes,
            *gpus.notes,
            *releases,
            *_without_effect(lab, spec),
            *newer_version_note(lab.images, spec, state, seen, plan),
            *copies,
        ),
    )


def _image_under(lab: Lab, node: str) -> str | None:
    disk = Volume(name=node, path=str(lab.paths.disks / f"{node}.qcow2"), image="", size_gib=0)
    base = lab.handlers[Volume.kind].observe(disk, None).handle.get("base")
    image = lab.images.owning(Path(str(base))) if base is not None else None
    return image.name if image is not None else None


def plan_with_gpus_held(lab: Lab, state: State, spec: ClusterSpec, acceleration: AccelerationDecision) -> Plan:
    """`plan_lab` while no other command changes the layout of the GPUs, so that it meets no half-made slice."""
    with gpu_layout_held(lab.gpus):
        return plan_lab(lab, state, spec, acceleration)


def _without_effect(lab: Lab, spec: ClusterSpec) -> tuple[str, ...]:
    """Settings that do nothing where `auto` has chosen the embedded hypervisor; `validate` warns of it where the file
    asks for that one."""
    if lab.backends.hypervisor != EMBEDDED or spec.hypervisor.uri == EMBEDDED:
        return ()
    nat = any(network.nat for network in spec.networks.values())
    upgrades = spec.security.unattended_upgrades
    return (*((NAT_EMBEDDED,) if nat else ()), *((UPGRADES_EMBEDDED,) if upgrades else ()))


def plan_destroy(lab: Lab, state: State) -> Plan:
    """What `destroy` would do: everything on record, and everything on the host that is marked as the lab's."""
    with lab.session.pictured():
        plan = diff(lab.name, (), dict(state.resources), {}, find(lab))
        blockers = lost_blockers(lab, [record.resource for record in state.resources.values()])
        return dataclasses.replace(plan, blockers=(*blockers, *disk_blockers(lab)), notes=copy_notes(lab))


def observe(lab: Lab, state: State, spec: ClusterSpec, wanted: tuple[Resource, ...]) -> dict[str, Observation]:
    """A look at everything wanted, by id.

    What labs share is looked at last, and only if something is to be made from it: a lab whose disks are there needs
    no golden image, nor the sources that it would be made from.
    """
    recorded = state.resources
    seen = _look(lab, tuple(resource for resource in wanted if not resource.shared), recorded)
    remade = {resource.id for resource in wanted if _is_remade(resource, recorded.get(resource.id))}
    follow_control_plane(lab.images, spec, state, seen, remade)
    shared = tuple(resource for resource in wanted if resource.shared)
    idle = {resource.id for resource in shared if _only_stays(resource, wanted, recorded, seen)}
    seen |= {key: Observation(Presence.OURS) for key in idle}
    return seen | _look(lab, tuple(resource for resource in shared if resource.id not in idle), recorded)


def _look(lab: Lab, resources: tuple[Resource, ...], recorded: Mapping[str, Recorded]) -> dict[str, Observation]:
    with threads(8, "observe") as pool:
        looks = {
            resource.id: pool.submit(_handler(lab, resource).observe, resource, recorded.get(resource.id))
            for resource in resources
        }
    return {key: look.result() for key, look in looks.items()}


def _only_stays(
    shared: Resource,
    wanted: tuple[Resource, ...],
    recorded: Mapping[str, Recorded],
    seen: Mapping[str, Observation],
) -> bool:
    """Whether all that needs this shared thing is there and remains as it is, but for what can change in place."""
    users = [resource for resource in wanted if shared.id in resource.needs]
    return all(
        user.id in recorded and seen[user.id].presence is Presence.OURS and not _is_remade(user, recorded[user.id])
        for user in users
    )


def _is_remade(resource: Resource, record: Recorded | None) -> bool:
    """Whether it differs from its record by more than can change in place."""
    if record is None:
        return False
    if type(record.resource) is not type(resource):
        return True
    return not set(resource.differences(record.resource)) <= resource.updatable


def find(lab: Lab) -> tuple[Resource, ...]:
    """Everything on the host that carries the lab's marks.

    What is found has lost its needs; they are given back by kind, so that it is taken away in the right order.
    """
    found = [resource for handler in lab.handlers.values() for resource in handler.find(lab.name)]
    return tuple(_with_needs(resource, found) for resource in found)


_ORDER = (
    "hypervisor",
    "service",
    "firewall",
    "network",
    "mig-mode",
    "virtual-functions",
    "gpu-instance",
    "vgpu",
    "whole-gpu",
    "domain",
)


def _with_needs(resource: Resource, found: list[Resource]) -> Resource:
    earlier = _ORDER[: _ORDER.index(resource.kind)] if resource.kind in _ORDER else ()
    needs = tuple(other.id for other in found if other.kind in earlier)
    return dataclasses.replace(resource, needs=needs)


def _handler(lab: Lab, resource: Resource) -> Handler[Any]:
    handler = lab.handlers.get(resource.kind)
    if handler is None:
        raise StateError(f"this version has no handler for a {resource.kind}", where=resource.id)
    return handler


def refuse_stale(plan: Plan, expected: str | None) -> None:
    """Raise unless this is the plan with the digest `expected`, or any plan will do.

    Raises:
        ConflictError: the host or the file has changed since that plan was made.
    """
    if expected not in (None, plan.digest):
        raise ConflictError(
            f"the plan is now {plan.digest}, not {expected}: the host or the file has changed",
            fix="look at the new plan with `hyperscaler plan` first",
        )


def refuse_blocked(plan: Plan) -> None:
    """Raise for a plan that cannot be carried out.

    Raises:
        ConflictError: names every blocker.
    """
    if not plan.blockers:
        return
    first = plan.blockers[0]
    lines = [f"{blocker.resource_id}: {blocker.what}" for blocker in plan.blockers]
    raise ConflictError(
        "nothing was changed, because something is in the way:\n    " + "\n    ".join(lines), fix=first.fix
    )
