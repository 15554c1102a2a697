"""A plan as steps, and what each of them waits for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emulator.plan.graph import dependents
from emulator.plan.model import Action, Change, Plan
from emulator.plan.resources import Resource


@dataclass(frozen=True, slots=True)
class Step:
    """One half of a replacement, or a whole change of another kind."""

    key: str
    action: Action
    resource: Resource
    previous: Resource | None
    is_delete: bool
    reason: str


def steps_of(plan: Plan) -> tuple[dict[str, Step], dict[str, set[str]]]:
    """The plan as steps by key and, for each step, the keys that it waits for."""
    steps = {step.key: step for change in plan.changes for step in _split(change)}
    waits: dict[str, set[str]] = {key: set() for key in steps}
    _wait_for_needs(steps, waits)
    ends: dict[str, str] = {}
    for key, step in steps.items():
        if step.is_delete:
            continue
        waits[key] |= _group(steps, step.resource.waits_for_group) | _deletes_before(steps, step.resource)
        if chain := step.resource.chain:
            waits[key] |= {ends[chain]} if chain in ends else set()
            ends[chain] = key
    return steps, waits


def _wait_for_needs(steps: Mapping[str, Step], waits: Mapping[str, set[str]]) -> None:
    for key, step in steps.items():
        for need in step.resource.needs:
            made = steps.get(f"ensure {need}")
            if step.is_delete and f"delete {need}" in steps:
                waits[f"delete {need}"].add(key)  # dependents go first
            elif made and step.is_delete and made.resource.outlives_departing:
                waits[made.key].add(key)
            elif made:
                waits[key].add(made.key)  # a delete needs a running hypervisor as well


def _group(steps: Mapping[str, Step], group: str) -> set[str]:
    """Keys of the steps that make resources of the group."""
    return {key for key, step in steps.items() if group and not step.is_delete and step.resource.group == group}


def _deletes_before(steps: Mapping[str, Step], resource: Resource) -> set[str]:
    """Keys of the deletes that make way for the resource: its own, and those of its rivals for something exclusive."""
    own = {f"delete {resource.id}"} & steps.keys()
    shared = set(resource.exclusive)
    if not shared:
        return own
    # Dependents of this resource (a slice on its MIG mode) can only be removed once it is in its wanted state.
    above = dependents({step.resource.id: step.resource.needs for step in steps.values()}, [resource.id])
    return own | {
        key
        for key, rival in steps.items()
        if rival.is_delete and shared & set(rival.resource.exclusive) and rival.resource.id not in above
    }


def _split(change: Change) -> tuple[Step, ...]:
    resource = change.resource
    ensure = Step(f"ensure {resource.id}", change.action, resource, change.previous, False, change.reason)
    if change.action is Action.DELETE:
        return (Step(f"delete {resource.id}", Action.DELETE, resource, None, True, change.reason),)
    if change.action is Action.REPLACE:
        old = change.previous or resource
        return (Step(f"delete {old.id}", Action.DELETE, old, None, True, change.reason), ensure)
    return (ensure,)
