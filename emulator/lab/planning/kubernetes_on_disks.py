"""Which Kubernetes the disks of a lab hold: for disks that are added, that of the control plane's disk.

A cluster takes no worker of another minor version, and a disk keeps what it was made with, until an upgrade puts
another release on it, which the journal then knows (`VERSION_FACT`). So what `kubernetes_config` names as source and
version decides only while there is no control plane yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

from emulator.apply.handlers.image import Images
from emulator.apply.state import State, StateStore
from emulator.labfile.kubernetes_versions import is_asked_for, is_way, minor_of, supported_minors
from emulator.labfile.model import ClusterKind, ClusterSpec, KubernetesSpec, Role
from emulator.plan.model import Action, Blocker, Observation, Plan, Presence
from emulator.plan.resources import Volume

INPUT = "kubernetes"
"""Under this name Kubernetes goes into an image."""


VERSION_FACT = "kubernetes/version"
"""The release (1.37.2) that an upgrade has put on the control plane's disk; empty or missing where none has."""
GOAL_FACT = "kubernetes/upgrade"
"""The release to which an upgrade is under way; empty or missing where none is."""


def control_plane_disk(spec: ClusterSpec) -> str | None:
    """Id of the volume of the control plane; None in a lab without Kubernetes."""
    return next((f"{Volume.kind}/{node.name}" for node in spec.nodes if node.role is Role.CLOUD_CONTROL_PLANE), None)


def upgraded_to(state: State) -> str:
    """The release that an upgrade has put on the control plane's disk; empty where none has."""
    return state.facts.get(VERSION_FACT, "")


def on_the_way_to(state: State) -> str:
    """The release to which an upgrade is under way, or was when it ended too early; empty where none is."""
    return state.facts.get(GOAL_FACT, "")


def wanted_kubernetes(state: State, spec: ClusterSpec) -> KubernetesSpec | None:
    """The Kubernetes for the images of new disks: after an upgrade the minor version of the cluster, where the file
    names none. What the source would give without a version may be a newer one by then."""
    have = upgraded_to(state)
    if spec.kubernetes is None or not have or spec.kubernetes.version:
        return spec.kubernetes
    return dataclasses.replace(spec.kubernetes, version=minor_of(have) or "")


def forget_upgrade(store: StateStore, spec: ClusterSpec, plan: Plan) -> None:
    """Before the control plane's disk goes: a new one holds what its image does."""
    if control_plane_disk(spec) in _made_or_deleted(plan):
        for fact in (VERSION_FACT, GOAL_FACT):
            if store.state.facts.get(fact):
                store.fact(fact, "")


def follow_control_plane(
    images: Images, spec: ClusterSpec, state: State, seen: Mapping[str, Observation], remade: Collection[str]
) -> None:
    """Have new disks hold what the control plane's holds, where that one is there and is not made anew (`remade`)."""
    head = control_plane_disk(spec)
    if head is None:
        return
    base = None if head in remade else _base(head, seen)
    upgraded = base is not None and upgraded_to(state) not in ("", _version_in(images, base))
    images.follow(spec.images.of(ClusterKind.CLOUD), None if upgraded else base)


def refuse_other_version(
    images: Images, spec: ClusterSpec, state: State, seen: Mapping[str, Observation], plan: Plan
) -> tuple[Blocker, ...]:
    """What is in the way when the file asks for another Kubernetes than the control plane has.

    Images of earlier versions of this program do not say what they hold; then the control plane itself refuses.
    """
    have, head = _standing(images, spec, state, seen, plan), control_plane_disk(spec)
    if spec.kubernetes is None or head is None or not have or is_asked_for(have, spec.kubernetes.version):
        return ()
    asked = spec.kubernetes.version.removeprefix("v")
    what = f"the control plane has Kubernetes {have} on its disk, and the file now asks for version {asked}"
    if is_way(have, asked):
        what += ", which `upgrade` brings to its nodes"
        fix = f"hyperscaler upgrade {spec.name} --to {asked} --file FILE, or write version: {have}"
    else:
        what += ", which cannot be changed in place"
        fix = f"write version: {have} or remove the key, or `hyperscaler destroy {spec.name}` first"
    return (Blocker(head, what, fix),)


def newer_version_note(
    images: Images, spec: ClusterSpec, state: State, seen: Mapping[str, Observation], plan: Plan
) -> tuple[str, ...]:
    """That the control plane stays as it is where the file names no version and new labs get a newer one."""
    have = _standing(images, spec, state, seen, plan)
    if spec.kubernetes is None or spec.kubernetes.version or not have:
        return ()
    newer = [minor for minor in supported_minors(spec.kubernetes.source) if is_way(have, minor)]
    if not newer or minor_of(have) == newer[-1]:
        return ()
    head = (control_plane_disk(spec) or "").rpartition("/")[2]
    return (
        f"{head} has Kubernetes {have} and keeps it, like all nodes of its cluster; to have {newer[-1]}:"
        f" hyperscaler upgrade {spec.name} --to {newer[-1]}",
    )


def _standing(images: Images, spec: ClusterSpec, state: State, seen: Mapping[str, Observation], plan: Plan) -> str:
    """The release of a control plane that stays; empty if there is none, or its image does not say."""
    head = control_plane_disk(spec)
    if head is None or head in _made_or_deleted(plan):
        return ""
    base = _base(head, seen)
    return (upgraded_to(state) or _version_in(images, base)) if base is not None else ""


def _made_or_deleted(plan: Plan) -> set[str]:
    kinds = (Action.CREATE, Action.REPLACE, Action.DELETE)
    return {change.resource.id for change in plan.changes if change.action in kinds}


def _version_in(images: Images, base: Path) -> str:
    image = images.owning(base)
    return image.versions.get(INPUT, "") if image is not None else ""


def _base(head: str, seen: Mapping[str, Observation]) -> Path | None:
    look = seen.get(head)
    if look is None or look.presence is not Presence.OURS or "base" not in look.handle:
        return None
    return Path(str(look.handle["base"]))


def name_contents(images: Images, plan: Plan) -> Plan:
    """The plan with what new disks will hold in their reasons, so that its digest covers it. Where the image is yet to
    be built, the image's own change says so."""

    def with_contents(reason: str, image: str) -> str:
        contents = images.contents(image)
        return f"{reason}; made from {contents}" if contents else reason

    changes = tuple(
        dataclasses.replace(change, reason=with_contents(change.reason, change.resource.image))
        if isinstance(change.resource, Volume) and change.action in (Action.CREATE, Action.REPLACE)
        else change
        for change in plan.changes
    )
    return dataclasses.replace(plan, changes=changes)
