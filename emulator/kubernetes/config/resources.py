"""Names under which GPUs appear in Kubernetes. Pure.

Source: NVIDIA k8s-device-plugin, README, section on MIG strategies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

WHOLE = "nvidia.com/gpu"


class MigStrategy(StrEnum):
    """none: GPUs only. single: slices of one profile are called GPUs. mixed: each profile has its own name."""

    NONE = "none"
    SINGLE = "single"
    MIXED = "mixed"


def is_mig_profile(type_: str) -> bool:
    """`1g.10gb` is a MIG profile, `a100` is not."""
    return type_[:1].isdigit() and "g." in type_


def resource_name(type_: str, strategy: MigStrategy) -> str:
    """The extended resource of one GPU type; `1g.10gb+me` becomes `nvidia.com/mig-1g.10gb.me`."""
    if strategy is MigStrategy.MIXED and is_mig_profile(type_):
        return f"nvidia.com/mig-{type_.replace('+', '.')}"
    return WHOLE


def node_resources(gpus: Iterable[tuple[str, int]], strategy: MigStrategy) -> Mapping[str, int]:
    """Resource name -> count that a node must advertise, from the types and counts that the allocation gave it."""
    found: dict[str, int] = {}
    for type_, count in gpus:
        name = resource_name(type_, strategy)
        found[name] = found.get(name, 0) + count
    return found
