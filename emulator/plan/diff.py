"""Wanted against recorded against observed: the changes, each with its reason."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from emulator.plan.graph import dependents, topological_order
from emulator.plan.model import Action, Blocker, Change, Observation, Plan, Presence, Recorded
from emulator.plan.resources import JsonValue, Resource, Volume

_ABSENT = Observation(Presence.ABSENT)
_ANEW = (Action.CREATE, Action.REPLACE)

Differences = Mapping[str, tuple[JsonValue, JsonValue]]


def diff(
    lab: str,
    wanted: Sequence[Resource],
    recorded: Mapping[str, Recorded],
    observed: Mapping[str, Observation],
    found: Sequence[Resource] = (),
) -> Plan:
    """The plan that turns the present state into the wanted one.

    Args:
        wanted: all resources of the request; empty for destroy.
        recorded: the state, by resource id.
        observed: the observation of every wanted and recorded resource, by id; a missing entry counts as absent.
        found: resources on the host that are ours by their metadata, whether on record or not.

    Changes are ordered so that they can be carried out one by one: deletes first (dependents before what they need),
    then the rest (dependencies first).
    """
    wanted_by_id = {resource.id: resource for resource in wanted}
    changes: dict[str, Change] = {}
    blockers: list[Blocker] = []
    for resource in wanted:
        change, blocker = _judge(resource, recorded.get(resource.id), observed.get(resource.id, _ABSENT))
        if change:
            changes[resource.id] = change
        if blocker:
            blockers.append(blocker)
    _spread(changes, wanted_by_id, recorded, observed)
    doomed: dict[str, Change] = {}
    for record in recorded.values():
        resource = record.resource
        if resource.id not in wanted_by_id and not resource.shared:
            reason = "no longer wanted" if wanted else "the lab is destroyed"
            doomed[resource.id] = Change(Action.DELETE, resource, reason)
    for resource in found:
        if resource.id not in wanted_by_id and resource.id not in doomed and not resource.shared:
            doomed[resource.id] = Change(Action.DELETE, resource, "belongs to the lab, but is not on record")
    return Plan(lab, (*_delete_order(doomed), *_create_order(wanted_by_id, changes)), tuple(blockers))


def _judge(resource: Resource, record: Recorded | None, seen: Observation) -> tuple[Change | None, Blocker | None]:
    if moved := _moved_disk(resource, record):
        return None, moved
    match seen.presence:
        case Presence.FOREIGN:
            return None, Blocker(
                resource.id,
                seen.detail or "something foreign is in its place",
                "rename the lab or change the file; nothing foreign is ever removed by hyperscaler",
            )
        case Presence.ABSENT:
            return Change(Action.CREATE, resource, seen.detail or _absent_reason(record)), None
        case Presence.PARTIAL:
            reason = seen.detail or "an interrupted run left it incomplete"
            return Change(Action.REPLACE, resource, reason, previous=resource), None
        case Presence.UNKNOWN:
            return Change(Action.REPAIR, resource, seen.detail or "cannot be seen yet"), None
        case Presence.OURS:
            return _judge_ours(resource, record, seen)


def _moved_disk(resource: Resource, record: Recorded | None) -> Blocker | None:
    """A disk that is on record at another path: a disk at the wanted path would not have the node's data."""
    old = record.resource if record else None
    if not isinstance(resource, Volume) or not isinstance(old, Volume) or old.path == resource.path:
        return None
    return Blocker(
        resource.id,
        f"the disk is on record as {old.path}, and would now be {resource.path}; disks are never discarded unasked",
        "use HYPERSCALER_HOME as the lab was made with; or save what is needed from the node, destroy the lab and "
        "provision it again",
    )


def _absent_reason(record: Recorded | None) -> str:
    if record is None:
        return "not present"
    if record.open_action:
        return "not present; an interrupted run had begun it"
    return "missing although it was made; removed outside of hyperscaler"


def _judge_ours(resource: Resource, record: Recorded | None, seen: Observation) -> tuple[Change | None, Blocker | None]:
    previous = record.resource if record else None
    differences = resource.differences(previous) if previous and type(previous) is type(resource) else {}
    if isinstance(resource, Volume) and (blocker := _data_loss(resource, differences)):
        return None, blocker
    # A begun update may or may not have reached the host, so the record's fields prove nothing; only the digest that
    # the host itself keeps does.
    if differences or (seen.digest is not None and seen.digest != resource.digest):
        return _adapt(resource, previous, differences), None
    if seen.drift:
        return Change(Action.REPAIR, resource, "; ".join(seen.drift), previous=resource), None
    if record is None:
        return Change(Action.ADOPT, resource, "present and ours, but not on record"), None
    if record.open_action:
        return Change(Action.ADOPT, resource, "complete, but not recorded by the interrupted run"), None
    return None, None


def _data_loss(resource: Volume, differences: Differences) -> Blocker | None:
    """Why a change of a disk would cost its data, or None."""
    old_gib, new_gib = differences.get("size_gib", (0, 0))
    if isinstance(old_gib, int) and isinstance(new_gib, int) and new_gib < old_gib:
        return Blocker(
            resource.id,
            f"the disk would shrink from {old_gib} GiB to {new_gib} GiB and lose data",
            f"set disk_gb back to {old_gib} or more, or remove the node from the file first",
        )
    if "admin" in differences:
        old, new = differences["admin"]
        return Blocker(
            resource.id,
            f"the disk was made by an earlier version, whose image lets {old} in and not {new}",
            "save what is needed from the node, destroy the lab and provision it again",
        )
    return None


def _adapt(resource: Resource, previous: Resource | None, differences: Differences) -> Change:
    """The change from `previous` to the request; without known differences only the host's digest differs."""
    if differences:
        action = Action.UPDATE if set(differences) <= resource.updatable else Action.REPLACE
        return Change(action, resource, _describe(differences), previous=previous or resource)
    if resource.updatable:
        return Change(Action.UPDATE, resource, "its settings on the host are not the recorded ones", previous=resource)
    return Change(Action.REPLACE, resource, "it was made from another request", previous=previous or resource)


def _describe(differences: Differences) -> str:
    parts = []
    for name, (old, new) in sorted(differences.items()):
        if isinstance(old, list) or isinstance(new, list):
            parts.append(_describe_list(name, old or [], new or []))
        else:
            parts.append(f"{name.replace('_', ' ')} {_shown(old)} -> {_shown(new)}")
    return ", ".join(parts)


def _shown(value: JsonValue) -> JsonValue:
    return "none" if value == "" else value


def _describe_list(name: str, old: list[JsonValue], new: list[JsonValue]) -> str:
    def label(item: JsonValue) -> str:
        return str(item.get("name", item.get("source", item))) if isinstance(item, dict) else str(item)

    added = [label(item) for item in new if item not in old]
    removed = [label(item) for item in old if item not in new]
    parts = [f"+{text}" for text in added if text not in removed]
    parts += [f"-{text}" for text in removed if text not in added]
    parts += [f"~{text}" for text in added if text in removed]
    return f"{name.replace('_', ' ')} {' '.join(parts)}"


def _spread(
    changes: dict[str, Change],
    wanted: Mapping[str, Resource],
    recorded: Mapping[str, Recorded],
    observed: Mapping[str, Observation],
) -> None:
    """Extend changes to dependents: a replaced resource replaces its existing dependents, a growing disk restarts its
    domain. A golden image is built (again) only for a disk that is about to be made from it."""
    needs = {resource.id: resource.needs for resource in wanted.values()}
    remade = {key for key, change in changes.items() if _is_anew(change) and not change.resource.shared}
    for key in dependents(needs, sorted(remade)):
        if _exists(observed.get(key)) and not _is_anew(changes.get(key)):
            changes[key] = _replacement(wanted[key], recorded.get(key), remade)
    for key in [key for key, change in changes.items() if change.resource.shared]:
        if not any(_is_anew(changes.get(dependent)) for dependent in dependents(needs, [key])):
            del changes[key]
    grown = {key for key, change in changes.items() if _is_growth(change, recorded.get(key))}
    for key, resource in wanted.items():
        cause = next((volume for volume in resource.needs if volume in grown), None)
        if cause and key not in changes:
            changes[key] = Change(Action.REPAIR, resource, f"restarts because {cause} grows")


def _replacement(resource: Resource, record: Recorded | None, remade: Collection[str]) -> Change:
    causes = ", ".join(sorted(set(resource.needs) & set(remade))) or "a dependency"
    previous = record.resource if record else resource
    return Change(Action.REPLACE, resource, f"{causes} is made anew", previous=previous)


def _exists(seen: Observation | None) -> bool:
    return seen is not None and seen.presence in (Presence.OURS, Presence.PARTIAL)


def _is_anew(change: Change | None) -> bool:
    return change is not None and change.action in _ANEW


def _is_growth(change: Change, record: Recorded | None) -> bool:
    """Whether the change grows a disk. An interrupted growth counts, because it has stopped the guest as well."""
    interrupted = record is not None and record.open_action == Action.UPDATE.value
    return isinstance(change.resource, Volume) and (change.action is Action.UPDATE or interrupted)


def _delete_order(doomed: Mapping[str, Change]) -> list[Change]:
    order = topological_order({key: change.resource.needs for key, change in doomed.items()})
    return [doomed[key] for key in reversed(order)]


def _create_order(wanted: Mapping[str, Resource], changes: Mapping[str, Change]) -> list[Change]:
    order = topological_order({key: resource.needs for key, resource in wanted.items()})
    return [changes[key] for key in order if key in changes]
