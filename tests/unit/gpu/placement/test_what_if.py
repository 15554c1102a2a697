"""What-if texts: understood, or refused with the remedy."""

from __future__ import annotations

import pytest

from emulator.core.errors import ExitCode, UsageError
from emulator.gpu.placement.demand import Infeasible, Solution
from emulator.gpu.placement.what_if import parse_demands, what_if


def test_the_question_of_the_manual() -> None:
    answer = what_if("A100-SXM4-80GB:2", "1g.10gb=4,3g.40gb=1")
    assert [gpu.id for gpu in answer.gpus] == ["GPU-0", "GPU-1"]
    assert [demand.id for demand in answer.demands][-2:] == ["1g.10gb-4", "3g.40gb-1"]
    assert isinstance(answer.answer, Solution)
    assert answer.answer.gpus_touched == 1


def test_several_models_whole_gpus_and_smallest_slices() -> None:
    answer = what_if(["A30", "L40S:1"], "whole=1, any=4")
    assert isinstance(answer.answer, Solution)
    assert [where.gpu for where in answer.answer.assignments] == ["GPU-1", *["GPU-0"] * 4]


def test_a_wrong_profile_is_an_answer_that_names_the_right_ones() -> None:
    answer = what_if("A100-SXM4-80GB", "1g.5gb=1").answer
    assert isinstance(answer, Infeasible)
    assert "1g.10gb" in answer.changes[0]


@pytest.mark.parametrize(
    ("gpus", "demand", "what", "fix"),
    [
        ("A100:2", "1g.10gb=1", "no single GPU is called 'A100'", "NVIDIA A100-PCIE-40GB"),
        ("A100-SXM4-80GB:0", "1g.10gb=1", "'0' is not a count of 1 or more", "MODEL:COUNT"),
        ("A100-SXM4-80GB:two", "1g.10gb=1", "'two' is not a count", "MODEL:COUNT"),
        ("A100-SXM4-80GB:", "1g.10gb=1", "'' is not a count", "MODEL:COUNT"),
        ("A100-SXM4-80GB:65", "1g.10gb=1", "more than 64 GPUs", "ask for fewer"),
        ("A30", "1g.6gb=-1", "'-1' is not a count", "PROFILE=COUNT"),
        ("A30", "1g.6gb=²", "'²' is not a count", "PROFILE=COUNT"),
        ("A30", "1g.6gb=9999", "more than 512 demands", "ask for fewer"),
        ("A30", "1g.6gb=1,1g.6gb=2", "1g.6gb occurs twice", "with the sum"),
        ("A30", "=3", "'=3' does not name a profile", "PROFILE=COUNT"),
        ("A30", "", "'' does not name a profile", "PROFILE=COUNT"),
        ("", "1g.6gb=1", "no single GPU is called ''", "such as A100-SXM4-80GB"),
    ],
)
def test_texts_that_cannot_be_understood(gpus: str, demand: str, what: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        what_if(gpus, demand)
    assert what in caught.value.what
    assert fix in caught.value.fix
    assert caught.value.exit_code is ExitCode.USAGE


def test_no_gpu_at_all() -> None:
    with pytest.raises(UsageError, match="no GPU given"):
        what_if([], "1g.10gb=1")


def test_a_profile_without_a_count_means_one() -> None:
    assert [demand.profile for demand in parse_demands("1g.10gb, 2g.20gb")] == ["1g.10gb", "2g.20gb"]
