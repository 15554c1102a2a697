"""Telling the nodes of a lab what has changed beside its file: users, keys, certificates."""

from __future__ import annotations

from collections.abc import Sequence

from emulator.apply.state import StateStore
from emulator.core.progress import Reporter
from emulator.core.stop import StopFlag
from emulator.lab.cluster_pipeline import ClusterSteps, work_on_clusters
from emulator.lab.environment import Environment
from emulator.lab.lab import Lab
from emulator.lab.planning.gpu_placement import node_gpus
from emulator.labfile.model import ClusterKind, ClusterSpec


def tell_nodes(
    env: Environment,
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
    steps = ClusterSteps(configure=lambda kind: env.guests.configure(spec, kind, access, reporter, stop, tags).changed)
    work_on_clusters(spec, steps, store, kinds=kinds, record=False).conclude()
