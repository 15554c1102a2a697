"""Checks of Slurm's settings."""

from __future__ import annotations

from emulator.labfile.draft import Draft, SlurmDraft
from emulator.labfile.findings import MAX_FINDINGS, quoted
from emulator.labfile.model import Role
from emulator.labfile.read.structure import nearest


def check_slurm(draft: Draft) -> None:
    slurm = draft.slurm
    if slurm is None:
        return
    names = _check_partitions(draft, slurm)
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
    known = frozenset(nodes or ())
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
        listed: set[str] = set()
        for view, node in partition.nodes:
            if node in listed:
                view.error("slurm.node", f"the node {quoted(node)} is listed twice", "keep one")
            elif nodes is not None and node not in known:
                near = nearest(node, nodes) if len(view.context.findings) < MAX_FINDINGS else None
                view.error(
                    "slurm.node",
                    f"{quoted(node)} is not a compute node ({_span(nodes)})",
                    f"did you mean {quoted(near)}?" if near else "name compute nodes only, or raise their count",
                )
            listed.add(node)
    return list(seen)


def _span(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}" if names else "there are none"


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown}, ..." if len(names) > 8 else shown
