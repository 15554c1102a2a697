"""Checks of Slurm's settings."""

from __future__ import annotations

from emulator.core.debian.releases import RELEASES, SlurmFeature, release_of
from emulator.core.units import natural
from emulator.labfile.draft import Draft, PartitionDraft, SlurmDraft
from emulator.labfile.findings import MAX_FINDINGS, quoted
from emulator.labfile.model import ClusterKind, Role
from emulator.labfile.read.structure import nearest
from emulator.labfile.values.hostlist import MOST_NODES

_COMPUTE = Role.HPC_COMPUTE.value


def check_slurm(draft: Draft) -> None:
    slurm = draft.slurm
    if slurm is None:
        return
    names = _check_partitions(draft, slurm)
    _check_limits(slurm)
    _check_release(draft, slurm)
    default = slurm.view.child("default_partition")
    complete = slurm.view.child("partitions").complete
    named = slurm.spec.default_partition
    if default.present and named and names and complete and named not in names:
        near = nearest(named, names)
        default.error(
            "slurm.default-partition",
            f"{quoted(named)} is not one of the partitions ({_listed(names)})",
            f"did you mean {quoted(near)}?" if near else "name one of them, or add it to `partitions`",
        )


def _check_partitions(draft: Draft, slurm: SlurmDraft) -> list[str]:
    seen: dict[str, str] = {}
    compute = next((group for group in draft.groups if group.role is Role.HPC_COMPUTE), None)
    nodes = compute.names if compute and compute.count is not None else None
    for partition in slurm.partitions:
        name = partition.name
        if name is not None:
            if name.upper() == "DEFAULT":
                partition.view.error(
                    "slurm.partition", f"{quoted(name)} is a reserved word in slurm.conf", "choose another name"
                )
            elif name in seen:
                partition.view.error(
                    "slurm.partition", f"the partition {quoted(name)} is already given by {seen[name]}", "keep one"
                )
            seen.setdefault(name, partition.view.name)
        _check_nodes(partition, nodes)
    return list(seen)


def _check_nodes(partition: PartitionDraft, nodes: tuple[str, ...] | None) -> None:
    """Each node of a partition once, and none that the lab does not have; `nodes` None: how many is not known."""
    known, listed = frozenset(nodes or ()), set[str]()
    for view, node in partition.nodes:
        if node in listed:
            view.error("slurm.node", f"the node {quoted(node)} is listed twice", "keep one")
        elif nodes is not None and node not in known and not view.judged:
            what = f"{quoted(node)} is not a compute node ({_span(nodes)})"
            view.error(
                "slurm.node", what, _node_fix(node, nodes, listed) if len(view.context.findings) < MAX_FINDINGS else ""
            )
        listed.add(node)


def _node_fix(node: str, nodes: tuple[str, ...], listed: set[str]) -> str:
    """What to write in place of `node`: slurm.conf's `ALL`, patterns and leading zeros have no meaning here."""
    if node.upper() == "ALL":
        return "leave `nodes` out: the partition has all compute nodes then"
    if set("*?") & set(node):
        return f"write each node, or a range such as {_COMPUTE}-[1-{max(2, len(nodes))}]"
    number = natural(node.removeprefix(f"{_COMPUTE}-"))
    if number and f"{_COMPUTE}-{number}" in nodes:
        return f"did you mean '{_COMPUTE}-{number}'?"
    if number and number <= MOST_NODES:
        return f"raise the count of compute_nodes to {number}, or name another node"
    near = nearest(node, [each for each in nodes if each not in listed])
    return f"did you mean {quoted(near)}?" if near else "name compute nodes only"


def _check_limits(slurm: SlurmDraft) -> None:
    """A partition's own limit against the one of all jobs."""
    most = slurm.view.usable("max_job_time", slurm.spec.max_job_seconds)
    for view, partition in slurm.view.each("partitions", slurm.spec.partitions):
        own = partition.max_job_seconds
        if most is not None and own is not None and own > most:
            view.child("max_job_time").error(
                "slurm.time",
                f"longer than the {slurm.view.child('max_job_time').plain()} of slurm_config",
                "lower it, or raise max_job_time of slurm_config",
            )


def _check_release(draft: Draft, slurm: SlurmDraft) -> None:
    """What the Slurm of the nodes' release does not have; an image of another name may have what it likes."""
    release = release_of(draft.file.images.of(ClusterKind.HPC))
    if release is None:
        return
    spec, found = slurm.spec, RELEASES[release]
    newer = next((name for name, each in RELEASES.items() if each.slurm_features and not each.testing), None)
    asked = (
        ("mpi", spec.mpi != "none", SlurmFeature.MPI),
        ("rest_api", spec.rest_api, SlurmFeature.REST),
        ("scrontab", spec.scrontab, SlurmFeature.SCRONTAB),
    )
    for key, wanted, feature in asked:
        if wanted and feature not in found.slurm_features:
            slurm.view.child(key).error(
                "slurm.release",
                f"not with Slurm {found.slurm} of {found.title}, which the nodes have",
                f"write `images: {{release: {newer}}}`, or leave it out",
            )


def _span(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}" if names else "there are none"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, ..." if len(names) > 8 else shown
