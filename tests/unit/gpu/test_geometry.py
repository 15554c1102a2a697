"""Placement rules of one GPU."""

from __future__ import annotations

from itertools import permutations

import pytest

from emulator.gpu.geometry import feasible_multisets, geometry_of, is_legal_layout, layout_fault
from emulator.gpu.model import GpuInstance, Placement
from tests.support.placement_cases import A100, gpu_model

BASIC = tuple(name for name in A100.profile_names if "+" not in name)


def first_fit(names: tuple[str, ...]) -> bool:
    """What a driver without explicit placement does: the lowest start that is free."""
    geometry = geometry_of(A100)
    standing: list[GpuInstance] = []
    for name in names:
        index = geometry.index(name)
        assert index is not None
        starts = geometry.free_starts(geometry.occupancy(standing), index)
        if not starts:
            return False
        standing.append(GpuInstance(name, Placement(starts[0], geometry.profiles[index].memory_slices or 0)))
    return True


def test_an_a100_has_77_feasible_multisets_of_which_32_depend_on_order_under_first_fit() -> None:
    multisets = feasible_multisets(A100, BASIC)
    assert len(multisets) == 77
    dependent = largest_first_fails = 0
    for counts in multisets:
        names = tuple(name for name, count in zip(BASIC, counts, strict=True) for _ in range(count))
        outcomes = {first_fit(order) for order in set(permutations(names))} if len(set(names)) > 1 else {True}
        dependent += outcomes == {True, False}
        ordered = sorted(names, key=lambda name: -int(name.split(".")[1].removesuffix("gb")) * 10 - int(name[0]))
        largest_first_fails += not first_fit(tuple(ordered))
    assert dependent == 32
    assert largest_first_fails == 11


def test_non_overlap_alone_keeps_an_a100_within_its_compute_slices() -> None:
    geometry = geometry_of(A100)
    counts = [dict(zip(BASIC, found, strict=True)) for found in feasible_multisets(A100, BASIC)]
    sizes = {profile.name: profile.compute_slices for profile in geometry.profiles}
    assert max(sum(sizes[name] * number for name, number in found.items()) for found in counts) == 7


@pytest.mark.parametrize(
    ("layout", "fault"),
    [
        ([("4g.40gb", 0), ("3g.40gb", 4)], None),
        ([("3g.40gb", 0), ("3g.40gb", 4)], None),
        ([("1g.10gb", n) for n in range(7)], None),
        ([("1g.10gb+me", 0), *(("1g.10gb", n) for n in range(1, 7))], None),
        ([("1g.10gb", 7)], "cannot start at memory slice 7"),
        ([("4g.40gb", 4)], "cannot start at memory slice 4 (legal: 0)"),
        ([("3g.40gb", 4), ("1g.10gb", 6)], "1g.10gb at memory slice 6 overlaps another instance"),
        ([("1g.10gb+me", 0), ("1g.10gb+me", 1)], "exceed what the GPU allows together"),
        ([("1g.5gb", 0)], "NVIDIA A100-SXM4-80GB has no profile 1g.5gb"),
    ],
)
def test_layouts(layout: list[tuple[str, int]], fault: str | None) -> None:
    assert is_legal_layout(A100, layout) is (fault is None)
    assert (fault or "") in (layout_fault(A100, layout) or "")


def test_an_a30_holds_one_media_instance_of_either_size() -> None:
    a30 = gpu_model("a30")
    assert is_legal_layout(a30, [("2g.12gb+me", 0), ("1g.6gb", 2)])
    assert not is_legal_layout(a30, [("2g.12gb+me", 0), ("1g.6gb+me", 2)])


def test_a_foreign_instance_of_an_unknown_profile_still_takes_its_slices() -> None:
    geometry = geometry_of(A100)
    state = geometry.occupancy([GpuInstance("1g.99gb", Placement(5, 1))])
    index = geometry.index("3g.40gb")
    assert index is not None
    assert geometry.free_starts(state, index) == (0,)


def test_fragmented_ones_leave_no_room_for_4g() -> None:
    geometry = geometry_of(A100)
    state = geometry.occupancy([GpuInstance("1g.10gb", Placement(n, 1)) for n in (0, 1, 5)])
    index = geometry.index("4g.40gb")
    assert index is not None
    assert geometry.free_starts(state, index) == ()
