"""Limits of one student in a Slurm cluster. Pure."""

from __future__ import annotations

from collections.abc import Sequence

GPUS = 1


def student_tres(nodes: Sequence[tuple[int, int]]) -> str:
    """The limit on trackable resources as Slurm's `MaxTRESPerUser`: half of the cluster, and one GPU.

    A job over all nodes is what a cluster is there to teach, so it is never less than a core of each node with its
    share of the memory; where nodes have a single core each, that is all of them.

    Args:
        nodes: cores and usable memory in MiB of each compute node.
    """
    cores = max(1, len(nodes), sum(cpus for cpus, _ in nodes) // 2)
    # What a job gets that asks for no memory (DefMemPerCPU in slurm.conf).
    share = min((max(1, memory // max(1, cpus)) for cpus, memory in nodes), default=1)
    memory = max(cores * share, sum(memory for _, memory in nodes) // 2)
    return f"cpu={cores},gres/gpu={GPUS},mem={memory}M"
