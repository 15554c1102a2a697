"""Infeasible questions: the reasons, and suggestions that really fit."""

from __future__ import annotations

import pytest

from emulator.gpu.model import GpuInstance, Placement
from emulator.gpu.placement.demand import Demand, GpuState, GpuUse, Infeasible, Solution
from emulator.gpu.placement.explain import solve
from emulator.gpu.placement.solver import place
from tests.support.placement_cases import A100, gpu_model, small_case


def wants(*profiles: str) -> list[Demand]:
    return [Demand(f"n{n}", profile) for n, profile in enumerate(profiles)]


def refused(gpus: list[GpuState], demands: list[Demand]) -> Infeasible:
    answer = solve(gpus, demands)
    assert isinstance(answer, Infeasible)
    return answer


def test_a_feasible_question_is_solved() -> None:
    assert isinstance(solve([GpuState("GPU-0", A100)], wants("7g.80gb")), Solution)


def test_one_slice_too_many_names_the_slice_to_drop_and_the_gpu_to_add() -> None:
    answer = refused([GpuState("GPU-0", A100)], wants(*["1g.10gb"] * 4, "4g.40gb"))
    assert answer.changes == ("drop 1 x 1g.10gb", "add one more NVIDIA A100-SXM4-80GB")
    assert answer.unplaced == ("n3",)
    assert len(answer.placed) == 4
    assert "take 8 of 8 free memory slices on 1 GPU, but no set of legal starts holds them all" in answer.reasons[0]


def test_a_blocked_start_names_what_blocks_it_and_where_that_could_go() -> None:
    gpus = [
        GpuState("GPU-0", A100, (GpuInstance("1g.10gb", Placement(5, 1), owner="lab demo"),)),
        GpuState(
            "GPU-1",
            A100,
            (GpuInstance("3g.40gb", Placement(4, 4), busy=True), GpuInstance("1g.10gb", Placement(0, 1), busy=True)),
        ),
    ]
    answer = refused(gpus, wants("3g.40gb", "3g.40gb"))
    assert any("3g.40gb on GPU-0 is blocked at" in reason for reason in answer.reasons)
    assert any("start 4 by 1g.10gb at start 5 (lab demo)" in reason for reason in answer.reasons)
    assert any("start 0 by 1g.10gb at start 0;" in reason for reason in answer.reasons)
    move = next(change for change in answer.changes if change.startswith("move"))
    assert move == "move 1g.10gb at start 5 (lab demo) from GPU-0 to start 1 of GPU-1"


def test_a_busy_instance_can_move_only_once_its_holder_stops() -> None:
    gpus = [
        GpuState("GPU-0", A100, (GpuInstance("1g.10gb", Placement(0, 1), busy=True),)),
        GpuState("GPU-1", A100, (GpuInstance("3g.40gb", Placement(4, 4)),)),
    ]
    answer = refused(gpus, wants("7g.80gb"))
    assert any(change.endswith("once its holder has stopped") for change in answer.changes)


@pytest.mark.parametrize(
    ("gpu", "profile", "reason"),
    [
        (GpuState("b", A100), "1g.5gb", "no GPU has the profile 1g.5gb (NVIDIA A100-SXM4-80GB)"),
        (GpuState("b", gpu_model("l40s")), "1g.10gb", "no GPU has the profile 1g.10gb (NVIDIA L40S)"),
        (
            GpuState("b", A100, allowed=("3g.40gb",)),
            "1g.10gb",
            "1g.10gb is not among the allowed profiles of any GPU",
        ),
        (
            GpuState("b", A100, use=GpuUse.WHOLE),
            "1g.10gb",
            "every GPU that has 1g.10gb is kept for whole-GPU use",
        ),
        (
            GpuState("b", gpu_model("rtx-pro-6000-blackwell-server")),
            "1g.24gb",
            "the legal placements on NVIDIA RTX PRO 6000 Blackwell Server Edition are not public: "
            "they have to be read from the GPU itself",
        ),
    ],
)
def test_demands_that_no_gpu_serves(gpu: GpuState, profile: str, reason: str) -> None:
    assert refused([gpu], wants(profile)).reasons == (reason,)


def test_a_wrong_profile_gets_the_right_names_and_the_rest_is_still_placed() -> None:
    answer = refused([GpuState("GPU-0", A100)], wants("1g.5gb", "1g.10gb"))
    assert answer.changes == ("use one of 1g.10gb, 1g.10gb+me, 1g.20gb, 2g.20gb, 3g.40gb, 4g.40gb, 7g.80gb",)
    assert [where.demand for where in answer.placed] == ["n1"]


def test_no_gpus_at_all() -> None:
    assert refused([], wants("1g.10gb")).reasons == ("there are no GPUs",)


def test_far_too_many_demands_are_summed_up() -> None:
    answer = refused([GpuState(f"GPU-{n}", A100) for n in range(8)], wants(*["1g.10gb"] * 80))
    assert answer.changes == ("drop 24 x 1g.10gb",)
    assert answer.unplaced == tuple(f"n{n}" for n in range(56, 80))
    assert len(answer.reasons) <= 4


def test_what_is_placed_of_an_infeasible_question_is_itself_an_answer() -> None:
    seen = 0
    for seed in range(150):
        gpus, demands, current = small_case(seed)
        answer = solve(gpus, demands, current=current)
        if isinstance(answer, Infeasible):
            seen += 1
            assert answer.reasons
            assert {where.demand for where in answer.placed} | set(answer.unplaced) == {d.id for d in demands}
            rest = [demand for demand in demands if demand.id not in answer.unplaced]
            assert place(gpus, rest) is not None
    assert seen > 50
