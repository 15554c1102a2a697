"""Which Debian release the disks of a lab have: a cluster that is there keeps its own when the default changes.

Disks are never made anew because of that; and what is added has to fit, since the daemons of one Slurm release do not
work with those of another that is too far away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from emulator.core.debian.releases import RELEASED_IMAGES, RELEASES, SlurmFeature, image_of, release_of, slurm_features
from emulator.labfile.model import ClusterKind, ClusterSpec, ImageSpec, Role
from emulator.plan.model import Recorded
from emulator.plan.resources import Volume

_HEADS = (Role.HPC_CONTROLLER, Role.CLOUD_CONTROL_PLANE)


def keep_releases(
    spec: ClusterSpec, recorded: Mapping[str, Recorded], image_under: Callable[[str], str | None]
) -> tuple[ClusterSpec, tuple[str, ...]]:
    """The lab with the releases that its clusters have, and notes on those that new labs would not get.

    Only where the file leaves the release to the product: a release that it names is a wish like any other, and so is
    the name of any other image.

    Args:
        spec: the lab as its file describes it.
        recorded: resources on record, by id.
        image_under: the image that the disk of a node stands on, by the node's name; None where there is no such disk.
            It is asked where the record says nothing.
    """
    if spec.images.release is not None:
        return spec, ()
    images, notes = spec.images, []
    for cluster in spec.clusters:
        named = images.hpc if cluster is ClusterKind.HPC else images.cloud
        if named not in RELEASED_IMAGES:
            continue
        have = _image_on_disks(spec, cluster, recorded, image_under)
        kept = next((release for release in RELEASES if image_of(named, release) == have), None)
        default = release_of(images.of(cluster))
        if kept is None or default is None or kept is default:
            continue
        images = _with_image(images, cluster, f"{named}-{kept}")
        nodes = ", ".join(node.name for node in spec.nodes_of(cluster))
        notes.append(
            f"{nodes}: {RELEASES[kept].title} as before, though new labs get {RELEASES[default].title}; to change over,"
            " destroy the lab and provision it again"
        )
    return dataclasses.replace(spec, images=images), tuple(notes)


def slurm_on_disks(spec: ClusterSpec, recorded: Mapping[str, Recorded]) -> frozenset[SlurmFeature]:
    """What is done with the Slurm that the cluster's nodes have, by the record; before it has any, by the lab file."""
    have = _image_on_disks(spec, ClusterKind.HPC, recorded, lambda _: None)
    return slurm_features(have or spec.images.of(ClusterKind.HPC))


def _image_on_disks(
    spec: ClusterSpec,
    cluster: ClusterKind,
    recorded: Mapping[str, Recorded],
    image_under: Callable[[str], str | None],
) -> str | None:
    """The image of the cluster's head, or of another node of it where the head has no disk."""
    nodes = sorted(spec.nodes_of(cluster), key=lambda node: node.role not in _HEADS)
    for node in nodes:
        record = recorded.get(f"{Volume.kind}/{node.name}")
        if record is not None and isinstance(record.resource, Volume):
            return record.resource.image
    found = (image_under(node.name) for node in nodes)
    return next((image for image in found if image is not None), None)


def _with_image(images: ImageSpec, cluster: ClusterKind, name: str) -> ImageSpec:
    if cluster is ClusterKind.HPC:
        return dataclasses.replace(images, hpc=name)
    return dataclasses.replace(images, cloud=name)
