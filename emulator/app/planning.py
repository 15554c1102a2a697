"""Looking at the host and planning against it. Reads only."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from emulator.app.gpu_planning import GPU_FACT, backend_of, plan_gpus
from emulator.app.lab import Backends, Lab, namespace_name
from emulator.app.world import EMBEDDED, AccelerationChoice, World
from emulator.apply.handler import Handler
from emulator.apply.state import State
from emulator.errors import ConflictError, StateError
from emulator.plan.build import Placement, build
from emulator.plan.diff import diff
from emulator.plan.model import Observation, Plan, Recorded
from emulator.plan.resources import Hypervisor, Resource
from emulator.ports import DaemonPresence
from emulator.spec.model import ClusterSpec

HYPERVISOR_FACT = "hypervisor"


def hypervisor_of(world: World, state: State, spec: ClusterSpec) -> str:
    """`embedded` or the libvirt URI that the lab runs on: the recorded one, since a lab does not move.

    Raises:
        ConflictError: the file now asks for another one.
    """
    recorded = state.facts.get(HYPERVISOR_FACT) or _embedded_already(world, state, spec.name)
    wanted = spec.hypervisor.uri
    if recorded and wanted not in ("auto", recorded):
        raise ConflictError(
            f"the lab runs on hypervisor {recorded}, the file now asks for {wanted}",
            where="hypervisor.uri",
            fix=f"set it back to {recorded}, or `hyperscaler destroy {spec.name}` first",
        )
    return recorded or world.choose_hypervisor(wanted)


def _embedded_already(world: World, state: State, name: str) -> str:
    """`embedded` for a lab whose record does not say so, but that has a libvirtd of its own; else empty."""
    daemon = world.daemon(world.home.lab(name).hypervisor, namespace_name(world.home, name))
    marked = any(isinstance(record.resource, Hypervisor) for record in state.resources.values())
    return EMBEDDED if marked or daemon.presence() is not DaemonPresence.ABSENT else ""


def backends_of(world: World, state: State, spec: ClusterSpec, *, dry: bool) -> Backends:
    """What the lab of this file runs on; see `hypervisor_of` and `backend_of`."""
    return Backends(
        hypervisor_of(world, state, spec),
        backend_of(state, spec),
        spec.gpu.devices or None,
        dry=dry,
        kubernetes=spec.kubernetes,
    )


def recorded_backends(state: State) -> Backends:
    """What a lab runs on according to its record alone."""
    return Backends(state.facts.get(HYPERVISOR_FACT, ""), state.facts.get(GPU_FACT, ""))


def plan_lab(lab: Lab, state: State, spec: ClusterSpec, acceleration: AccelerationChoice) -> Plan:
    """What `provision` would do."""
    placement = Placement(lab.paths, lab.namespace, acceleration.accelerated)
    gpus = plan_gpus(spec, lab.gpus() if lab.gpus else None, state)
    wanted = build(spec, placement, gpus.resources)
    recorded = dict(state.resources)
    plan = diff(lab.name, wanted, recorded, observe(lab, wanted, recorded), find(lab))
    return dataclasses.replace(plan, notes=(*plan.notes, *gpus.notes))


def plan_destroy(lab: Lab, state: State) -> Plan:
    """What `destroy` would do: everything on record, and everything on the host that is marked as the lab's."""
    return diff(lab.name, (), dict(state.resources), {}, find(lab))


def observe(lab: Lab, wanted: tuple[Resource, ...], recorded: dict[str, Recorded]) -> dict[str, Observation]:
    """A look at everything wanted, by id."""
    with ThreadPoolExecutor(max_workers=8, thread_name_prefix="observe") as pool:
        looks = {
            resource.id: pool.submit(_handler(lab, resource).observe, resource, recorded.get(resource.id))
            for resource in wanted
        }
    return {key: look.result() for key, look in looks.items()}


def find(lab: Lab) -> tuple[Resource, ...]:
    """Everything on the host that carries the lab's marks.

    What is found has lost its needs; they are given back by kind, so that it is taken away in the right order.
    """
    found = [resource for handler in lab.handlers.values() for resource in handler.find(lab.name)]
    return tuple(_with_needs(resource, found) for resource in found)


_ORDER = (
    "hypervisor",
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
