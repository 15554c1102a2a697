"""Which Kubernetes the disks of a lab hold: for disks that are added, that of the control plane's disk.

A cluster takes no worker of another minor version, and a disk keeps what it was made with. So what `kubernetes_config`
names as source and version decides only while there is no control plane yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

from emulator.apply.handlers.image import Images
from emulator.labfile.kubernetes_versions import is_asked_for
from emulator.labfile.model import ClusterKind, ClusterSpec, Role
from emulator.plan.model import Action, Blocker, Observation, Plan, Presence
from emulator.plan.resources import Volume

INPUT = "kubernetes"
"""Under this name Kubernetes goes into an image."""


def control_plane_disk(spec: ClusterSpec) -> str | None:
    """Id of the volume of the control plane; None in a lab without Kubernetes."""
    return next((f"{Volume.kind}/{node.name}" for node in spec.nodes if node.role is Role.CLOUD_CONTROL_PLANE), None)


def follow_control_plane(
    images: Images, spec: ClusterSpec, seen: Mapping[str, Observation], remade: Collection[str]
) -> None:
    """Have new disks hold what the control plane's holds, where that one is there and is not made anew (`remade`)."""
    head = control_plane_disk(spec)
    if head is not None:
        images.follow(spec.images.of(ClusterKind.CLOUD), None if head in remade else _base(head, seen))


def refuse_other_version(
    images: Images, spec: ClusterSpec, seen: Mapping[str, Observation], plan: Plan
) -> tuple[Blocker, ...]:
    """What is in the way when the file asks for another Kubernetes than the control plane's disk holds.

    Images of earlier versions of this program do not say what they hold; then the control plane itself refuses.
    """
    head = control_plane_disk(spec)
    made = {change.resource.id for change in plan.changes if change.action in (Action.CREATE, Action.REPLACE)}
    if head is None or head in made or spec.kubernetes is None:
        return ()
    base = _base(head, seen)
    image = images.owning(base) if base is not None else None
    have = image.versions.get(INPUT, "") if image is not None else ""
    asked = spec.kubernetes.version
    if not have or is_asked_for(have, asked):
        return ()
    what = (
        f"the control plane has Kubernetes {have} on its disk, and the file now asks for version"
        f" {asked.removeprefix('v')}, which cannot be changed in place"
    )
    fix = f"write version: {have} or remove the key, or `hyperscaler destroy {spec.name}` first"
    return (Blocker(head, what, fix),)


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
