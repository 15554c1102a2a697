"""Grades: what counts as an answer, and what a missing one means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from emulator.core.errors import CommandError, CommandTimeoutError, HyperscalerError
from emulator.core.ports import Completed, GuestAddress
from emulator.exercises.grade import MOST_OUTPUT, Result, grade, holds, run_command
from emulator.exercises.model import Command, Expectation
from tests.support.exercise_labs import EXERCISE, exercise, setting_of

FEEDING = EXERCISE.replace("run: look,", "run: look, input_from: {node: compute, run: say},")


@dataclass
class Node:
    """Answers by the last word of the line, which is the script; `answers` may hold errors."""

    answers: Mapping[str, Completed | Exception]
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def run(
        self, guest: GuestAddress, command: str, *, timeout: float, check: bool = True, stdin: str | None = None
    ) -> Completed:
        assert not check
        assert timeout == 60
        script = command.rpartition("\n")[2].rstrip("'")
        self.asked.append((f"{guest.name} {script}", stdin))
        answer = self.answers[script]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        del guest, timeout
        return True


def done(stdout: str = "", code: int = 0, stderr: str = "") -> Completed:
    return Completed(("ssh",), code, stdout, stderr)


@pytest.mark.parametrize(
    ("expect", "answer", "ok"),
    [
        (Expectation(prints="yes"), done(" yes\n"), True),
        (Expectation(prints="yes"), done("yes\nyes\n"), False),
        (Expectation(prints="yes"), done("no yes"), False),
        (Expectation(prints="yes"), done("YES"), False),
        (Expectation(prints="yes"), done("yes", 1), False),
        (Expectation(prints="yes"), done("", 0, "yes"), False),
        (Expectation(at_least=2), done("2\n"), True),
        (Expectation(at_least=2), done("1000"), True),
        (Expectation(at_least=2), done("1"), False),
        (Expectation(at_least=2), done("2 3"), False),
        (Expectation(at_least=2), done("0x10"), False),
        (Expectation(at_least=2), done("\N{ARABIC-INDIC DIGIT NINE}"), False),
        (Expectation(at_least=2), done("9" * 5000), False),
        (Expectation(at_least=0), done(""), False),
        (Expectation(), done("anything"), True),
        (Expectation(), done("", 1), False),
        (Expectation(exit=3), done("", 3), True),
        (Expectation(exit=3), done(""), False),
    ],
)
def test_what_holds(expect: Expectation, answer: Completed, ok: bool) -> None:
    assert holds(expect, answer) is ok


def test_points_and_words() -> None:
    passed = grade(setting_of(), Node({"look": done("yes")}))[0]
    assert (passed.result, passed.points, passed.why, passed.seen) == (Result.PASSED, 5, "", "")
    failed = grade(setting_of(), Node({"look": done("no\x1b[2J")}))[0]
    assert (failed.result, failed.points, failed.why) == (Result.FAILED, 0, "not so")
    assert failed.seen == "no\N{REPLACEMENT CHARACTER}[2J"


def test_the_other_command_s_output_is_the_input() -> None:
    node = Node({"say": done("said\n"), "look": done("yes")})
    assert grade(setting_of(exercise(FEEDING)), node)[0].points == 5
    assert node.asked == [("hpc-compute-1 say", None), ("hpc-controller look", "said\n")]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (CommandTimeoutError("not over within 60 s"), "hpc-controller gave no answer in time; grade again"),
        (done("yes", 255, "ssh: no route"), "hpc-controller cannot be reached: ssh: no route"),
    ],
)
def test_a_node_without_an_answer_says_nothing_of_the_work(answer: Completed | Exception, why: str) -> None:
    graded = grade(setting_of(), Node({"look": answer}))[0]
    assert (graded.result, graded.points, graded.why) == (Result.UNANSWERED, 0, why)


@pytest.mark.parametrize(
    "answer", [CommandError("printed more than 32 MiB"), done("yes" + " " * MOST_OUTPUT)], ids=["flood", "long"]
)
@pytest.mark.parametrize("feeding", [False, True])
def test_too_long_an_answer_is_a_wrong_one(answer: Completed | Exception, feeding: bool) -> None:
    answers = {"say": answer, "look": done("yes")} if feeding else {"look": answer}
    graded = grade(setting_of(exercise(FEEDING if feeding else EXERCISE)), Node(answers))[0]
    assert (graded.result, graded.why) == (Result.FAILED, "the node printed more than an answer can be")


def test_preparing_stops_at_a_command_that_fails() -> None:
    node = Node({"prepare": done("", 1, "\x1b]0;x\x07no such node")})
    with pytest.raises(HyperscalerError, match=r"failed with exit status 1: .*no such node") as caught:
        run_command(Command(run="prepare"), setting_of(), node)
    assert "\x1b" not in caught.value.what
    assert caught.value.where == "hpc-controller, as admin"
