"""Checks of each cluster's share of the GPUs against the requests of its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emulator.labfile.checks.gpu import can_slice, gpus_of
from emulator.labfile.draft import Draft, GpuDraft
from emulator.labfile.findings import counted
from emulator.labfile.model import ClusterKind, GpuStrategy


@dataclass(frozen=True, slots=True)
class Needs:
    """Requests of the nodes of one cluster, summed: slices by profile, whole GPUs, and units of either kind."""

    slices: dict[str, int]
    whole: int
    either: int
    nodes: int

    @property
    def named(self) -> int:
        return sum(self.slices.values())

    @property
    def units(self) -> int:
        return self.named + self.whole + self.either


@dataclass(frozen=True, slots=True)
class Share:
    """A cluster's share: given in the file, or else derived from its needs. `by_profile`: those fixed by name."""

    slices: int
    whole: int
    by_profile: Mapping[str, int]
    given_slices: bool
    given_whole: bool


def needs_of(draft: Draft, kind: ClusterKind) -> Needs:
    slices: dict[str, int] = {}
    whole = either = nodes = 0
    for group in draft.groups_of(kind):
        if group.gpu is None or not group.count:
            continue
        units = group.gpu.count * group.count
        nodes += group.count
        if group.gpu.whole:
            whole += units
        elif group.gpu.profile:
            slices[group.gpu.profile] = slices.get(group.gpu.profile, 0) + units
        else:
            either += units
    return Needs(slices, whole, either, nodes)


def share_of(draft: Draft, kind: ClusterKind) -> Share:
    """The cluster's share. What the file does not give is what the nodes ask for; nodes that leave the kind to the
    strategy count as slices, or as whole GPUs where no slice can be had."""
    gpu, needs = draft.gpu, needs_of(draft, kind)
    slices_given, whole_given = gpu.mig_slices[kind].view.present, gpu.whole_gpus[kind][0].present
    gpus = gpus_of(gpu)
    sliceable = any(can_slice(device, gpus[index]) for index, device in enumerate(gpu.devices))
    prefers_whole = gpu.strategy is GpuStrategy.WHOLE or (gpu.strategy is GpuStrategy.HYBRID and not sliceable)
    slices = gpu.mig_slices[kind].count or 0
    whole = gpu.whole_gpus[kind][1] or 0
    if not slices_given:
        takes_rest = not prefers_whole and not (whole_given and gpu.strategy is GpuStrategy.HYBRID)
        slices = needs.named + (needs.either if takes_rest else 0)
    if not whole_given:
        whole = needs.whole + (needs.either if prefers_whole and not slices_given else 0)
    return Share(slices, whole, gpu.mig_slices[kind].by_profile or needs.slices, slices_given, whole_given)


def check_shares(draft: Draft) -> None:
    """Each cluster's share against what its nodes ask for."""
    for kind in ClusterKind:
        _check_share(draft, kind)


def _check_share(draft: Draft, kind: ClusterKind) -> None:
    gpu = draft.gpu
    slices_view, whole_view = gpu.mig_slices[kind].view, gpu.whole_gpus[kind][0]
    counts = [group.count for group in draft.groups_of(kind)]
    refused = any(
        not view.complete
        for group in draft.groups_of(kind)
        for view in (group.gpu_view, group.view.child("gpu_enabled"))
    )
    if not slices_view.complete or not whole_view.complete or gpu.strategy is None or None in counts or refused:
        return
    needs, share = needs_of(draft, kind), share_of(draft, kind)
    if (share.slices or share.whole) and not gpu.devices and not gpu.devices_view.present:
        view = slices_view if share.given_slices and share.slices else whole_view
        if view.present:
            view.error("gpu.unallocated", "GPUs are set aside, and `devices` lists none", "add the GPUs to `devices`")
        return
    if (share.whole and gpu.strategy is GpuStrategy.MIG) or (share.slices and gpu.strategy is GpuStrategy.WHOLE):
        return  # said by the check of the strategy
    _check_named(gpu, kind, needs, share)
    rest = (share.slices - needs.named) + (share.whole - needs.whole)
    if rest < needs.either and share.slices >= needs.named and share.whole >= needs.whole:
        _report_short(draft, kind, needs, share, missing=needs.either - rest)
    elif rest > needs.either:
        view = whole_view if share.given_whole and share.whole > needs.whole else slices_view
        view.warning(
            "gpu.unused",
            f"{_share_text(share)} {_are(share.slices + share.whole)} set aside for {kind.value}, and its nodes ask "
            f"for {needs.units or 'none'}",
            "lower the number, or enable GPUs on more nodes",
        )


def _report_short(draft: Draft, kind: ClusterKind, needs: Needs, share: Share, *, missing: int) -> None:
    place = next(group for group in draft.groups_of(kind) if group.gpu and group.count)
    whole = draft.gpu.strategy is GpuStrategy.WHOLE
    key, raised = ("whole_gpus", share.whole + missing) if whole else ("mig_slices", share.slices + missing)
    nodes = "1 GPU-enabled node asks" if needs.nodes == 1 else f"{needs.nodes} GPU-enabled nodes ask"
    place.gpu_view.error(
        "gpu.unallocated",
        f"{nodes} for {needs.units} in all, and {_share_text(share)} {_are(share.slices + share.whole)} set aside for "
        f"{kind.value}",
        f"set global.gpu_allocation.{key}.{kind.value} to {raised}, or lower the number of nodes",
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _check_named(gpu: GpuDraft, kind: ClusterKind, needs: Needs, share: Share) -> None:
    """Requests that name a profile or a whole GPU, against the shares that the file gives."""
    demand, (whole_view, _) = gpu.mig_slices[kind], gpu.whole_gpus[kind]
    if share.slices < needs.named and gpu.strategy is not GpuStrategy.WHOLE:
        demand.view.error(
            "gpu.unallocated",
            f"{counted(share.slices, 'slice')} {_are(share.slices)} set aside for {kind.value}, and its nodes ask for "
            f"{needs.named}",
            f"set it to {needs.named}",
        )
    elif demand.by_profile:
        for profile, count in needs.slices.items():
            if demand.by_profile.get(profile, 0) < count:
                demand.view.error(
                    "gpu.unallocated",
                    f"{demand.by_profile.get(profile, 0)} of {profile} set aside for {kind.value}, "
                    f"and its nodes ask for {count}",
                    f"add `{profile}: {count}`",
                )
    if share.whole < needs.whole and gpu.strategy is not GpuStrategy.MIG:
        whole_view.error(
            "gpu.unallocated",
            f"{counted(share.whole, 'whole GPU')} {_are(share.whole)} set aside for {kind.value}, and its nodes ask "
            f"for {needs.whole}",
            f"set it to {needs.whole}",
        )


def _share_text(share: Share) -> str:
    parts = []
    if share.slices or not share.whole:
        parts.append(counted(share.slices, "slice"))
    if share.whole:
        parts.append(counted(share.whole, "whole GPU"))
    return " and ".join(parts)
