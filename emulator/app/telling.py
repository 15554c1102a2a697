"""Telling the nodes of a lab what has changed beside its file: users, keys, certificates."""

from __future__ import annotations

from collections.abc import Sequence

from emulator.app.clusters import ClusterSteps, work_on_clusters
from emulator.app.gpu_planning import node_gpus
from emulator.app.lab import Lab
from emulator.app.world import World
from emulator.apply.handler import StopFlag
from emulator.apply.state import StateStore
from emulator.progress import Reporter
from emulator.spec.model import ClusterKind, ClusterSpec


def tell_nodes(
    world: World,
    lab: Lab,
    store: StateStore,
    spec: ClusterSpec,
    reporter: Reporter,
    stop: StopFlag,
    *,
    tags: tuple[str, ...],
    kinds: Sequence[ClusterKind] | None = None,
) -> None:
    """Run the tasks with one of `tags` on the clusters of `kinds`, or on all; the lab stays as configured as it was.

    Raises:
        ConfigureError: a node could not be told.
    """
    access = lab.access(spec.ssh.user, node_gpus(spec, store.state))
    steps = ClusterSteps(
        configure=lambda kind: world.guests.configure(spec, kind, access, reporter, stop, tags).changed
    )
    work_on_clusters(spec, steps, store, kinds=kinds, record=False).conclude()
