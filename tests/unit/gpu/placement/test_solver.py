"""The placement solver against exhaustive search, and its promises one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emulator.core.errors import HyperscalerError
from emulator.gpu.geometry import is_legal_layout
from emulator.gpu.model import GpuInstance, Placement
from emulator.gpu.placement.demand import Assignment, Demand, GpuState, GpuUse, Solution
from emulator.gpu.placement.solver import place
from tests.support import placement_brute_force as brute_force
from tests.support.placement_cases import A100, fleet_case, gpu_model, small_case

GPU0 = GpuState("GPU-0", A100)
GPU1 = GpuState("GPU-1", A100)


def wants(*profiles: str | None) -> list[Demand]:
    return [Demand(f"n{n}", profile) for n, profile in enumerate(profiles)]


def where(solution: Solution | None) -> dict[str, tuple[str, int]]:
    assert solution is not None
    return {a.demand: (a.gpu, a.placement.start if a.placement else -1) for a in solution.assignments}


@pytest.mark.parametrize("block", range(6))
def test_feasibility_and_objective_equal_exhaustive_search(block: int) -> None:
    feasible = 0
    for seed in range(50 * block, 50 * block + 50):
        gpus, demands, current = small_case(seed)
        answer = place(gpus, demands, current=current)
        best = brute_force.best_score(gpus, demands, current)
        if answer is None:
            assert best is None, seed
            continue
        feasible += 1
        assert answer.proved, seed
        assert brute_force.score(gpus, answer.assignments, current) == best, seed
        assert (answer.gpus_touched, -answer.room, len(answer.moves)) == best, seed
        for gpu in gpus:
            standing = tuple((i.profile, i.placement) for i in gpu.instances)
            mine = [a for a in answer.assignments if a.gpu == gpu.id]
            if any(a.whole for a in mine):
                assert mine == [Assignment(mine[0].demand, gpu.id)] and not standing, seed
            else:
                assert brute_force.legal(gpu.model, standing + brute_force.layout(mine)), seed
    assert feasible >= 10


def test_three_g_goes_to_start_four_when_two_g_need_the_front() -> None:
    places = where(place([GPU0], wants("3g.40gb", "2g.20gb", "2g.20gb")))
    assert places["n0"] == ("GPU-0", 4)
    assert {places["n1"][1], places["n2"][1]} == {0, 2}


def test_order_of_demands_does_not_decide_feasibility() -> None:
    assert place([GPU0], wants("1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb")) is not None


def test_four_1g20_leave_no_room_for_1g10() -> None:
    assert place([GPU0], wants(*["1g.20gb"] * 4)) is not None
    assert place([GPU0], wants(*["1g.20gb"] * 4, "1g.10gb")) is None


def test_one_me_instance_a_gpu() -> None:
    assert place([GPU0], wants("1g.10gb+me", "1g.10gb+me")) is None
    assert place([GPU0, GPU1], wants("1g.10gb+me", "1g.10gb+me")) is not None


def test_fewest_gpus_come_before_room() -> None:
    solution = place([GPU0, GPU1], wants("3g.40gb", "3g.40gb"))
    assert solution is not None
    assert solution.gpus_touched == 1


def test_a_slice_goes_where_it_spoils_least() -> None:
    taken = GpuState("GPU-1", A100, (GpuInstance("3g.40gb", Placement(4, 4), busy=True),))
    assert where(place([GPU0, taken], wants("1g.10gb")))["n0"][0] == "GPU-1"


def test_a_lone_slice_leaves_the_half_gpu_free() -> None:
    solution = place([GPU0], wants("1g.10gb"))
    start = where(solution)["n0"][1]
    assert is_legal_layout(A100, [("1g.10gb", start), ("4g.40gb", 0)])


def test_whole_gpu_prefers_the_gpu_that_cannot_be_cut() -> None:
    plain = GpuState("GPU-2", gpu_model("l40s"))
    assert where(place([GPU0, plain], [Demand("w", whole=True)]))["w"] == ("GPU-2", -1)


def test_whole_and_slices_share_no_gpu() -> None:
    mixed = [*wants("1g.10gb"), Demand("w", whole=True)]
    assert place([GPU0], mixed) is None
    places = where(place([GPU0, GPU1], mixed))
    assert places["n0"][0] != places["w"][0]


@pytest.mark.parametrize(
    ("use", "slices", "whole"),
    [
        (GpuUse.ANY, True, True),
        (GpuUse.SLICES, True, False),
        (GpuUse.WHOLE, False, True),
        (GpuUse.CLOSED, False, False),
    ],
)
def test_gpu_use_is_obeyed(use: GpuUse, slices: bool, whole: bool) -> None:
    gpu = GpuState("GPU-0", A100, use=use)
    assert (place([gpu], wants("1g.10gb")) is not None) is slices
    assert (place([gpu], [Demand("w", whole=True)]) is not None) is whole


def test_unnamed_demand_takes_the_smallest_allowed_profile() -> None:
    gpu = GpuState("GPU-0", A100, allowed=("3g.40gb", "2g.20gb"))
    solution = place([gpu], wants(None))
    assert solution is not None
    assert solution.assignments[0].profile == "2g.20gb"


def test_current_places_are_kept_when_nothing_is_gained_by_moving() -> None:
    current = {"n0": Assignment("n0", "GPU-1", "3g.40gb", Placement(0, 4))}
    solution = place([GPU0, GPU1], wants("3g.40gb", "3g.40gb"), current=current)
    assert solution is not None
    assert solution.moves == ()
    assert where(solution) == {"n0": ("GPU-1", 0), "n1": ("GPU-1", 4)}


def test_a_pinned_demand_stays_even_at_a_price() -> None:
    current = {"n0": Assignment("n0", "GPU-0", "1g.10gb", Placement(1, 1))}
    free = place([GPU0], wants("1g.10gb", "4g.40gb"), current=current)
    assert free is not None
    assert free.moves == ("n0",)
    assert place([GPU0], wants("1g.10gb", "4g.40gb"), current=current, pinned=["n0"]) is None
    both = place([GPU0, GPU1], wants("1g.10gb", "4g.40gb"), current=current, pinned=["n0"])
    assert where(both) == {"n0": ("GPU-0", 1), "n1": ("GPU-1", 0)}


def test_a_pinned_demand_without_its_place_is_an_error() -> None:
    with pytest.raises(HyperscalerError, match="must stay in place") as caught:
        place([GPU0], wants("1g.10gb"), pinned=["n0"])
    assert caught.value.where == "n0"
    assert caught.value.fix


def test_two_gpus_of_one_id_are_refused() -> None:
    with pytest.raises(HyperscalerError, match="two GPUs have the same id"):
        place([GPU0, GPU0], wants("1g.10gb"))


def test_a_placed_answer_is_stable_when_asked_again() -> None:
    gpus, demands = fleet_case(5, 4)
    first = place(gpus, demands)
    assert first is not None
    current = {a.demand: a for a in first.assignments}
    again = place(gpus, demands, current=current)
    assert again is not None
    assert again.moves == ()
    assert again.assignments == first.assignments


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), gpus=st.integers(3, 8))
def test_demands_cut_from_real_layouts_always_fit(seed: int, gpus: int) -> None:
    states, demands = fleet_case(seed, gpus)
    solution = place(states, demands)
    assert solution is not None
    assert solution.gpus_touched <= gpus
    for state in states:
        layout = [
            (a.profile or "", a.placement.start) for a in solution.assignments if a.gpu == state.id and a.placement
        ]
        assert is_legal_layout(A100, layout)
    assert [a.demand for a in solution.assignments] == [demand.id for demand in demands]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), rotation=st.integers(0, 50))
def test_order_of_the_input_changes_neither_level_of_the_objective(seed: int, rotation: int) -> None:
    gpus, demands = fleet_case(seed, 4)
    turn = rotation % max(1, len(demands))
    one, other = place(gpus, demands), place(gpus, demands[turn:] + demands[:turn])
    assert one is not None
    assert other is not None
    assert (one.gpus_touched, one.room, one.proved) == (other.gpus_touched, other.room, other.proved)
