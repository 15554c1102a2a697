"""Which clusters a resource serves, so that a failure in one cluster does not stop the other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from emulator.labfile.model import CLUSTER_NAMES
from emulator.plan.resources import Domain, Resource


def cluster_of(domain: Domain) -> str:
    """The cluster of a node, by the name of its network: `hpc` or `cloud`."""
    return domain.network.partition("/")[2]


def shown_name(clusters: Collection[str]) -> str:
    """The one cluster among `clusters` as messages have it; empty when there is none, or more than one."""
    names = {kind.value: name for kind, name in CLUSTER_NAMES.items()}
    return names.get(next(iter(clusters)), "") if len(clusters) == 1 else ""


def clusters_served(resources: Iterable[Resource]) -> Mapping[str, frozenset[str]]:
    """For each resource, by id, the clusters whose nodes need it, directly or through others.

    Resources that nodes wait for as a group (the slices of the GPUs) serve all clusters of these nodes. A resource that
    no node among `resources` needs serves none.
    """
    every = tuple(resources)
    known = {resource.id: resource for resource in every}
    serves: dict[str, set[str]] = {key: set() for key in known}
    groups: dict[str, list[str]] = {}
    for resource in every:
        groups.setdefault(resource.group, []).append(resource.id)
    for domain in every:
        if not isinstance(domain, Domain):
            continue
        cluster = cluster_of(domain)
        queue = [domain.id, *groups.get(domain.waits_for_group, ())]
        while queue:
            key = queue.pop()
            if key in known and cluster not in serves[key]:
                serves[key].add(cluster)
                queue += known[key].needs
    return {key: frozenset(found) for key, found in serves.items()}
