from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from emulator.core.errors import HyperscalerError, HypervisorError
from emulator.services.requests import MOST, Question, Requests


@pytest.fixture
def never() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def refuse() -> None:
    raise HypervisorError("no\nreally")


def test_what_is_answered_leaves_nothing() -> None:
    done: list[str] = []
    requests = Requests(patience=60.0)
    assert requests.make({name: lambda name=name: done.append(name) for name in "abc"}) == {}  # type: ignore[misc]
    assert sorted(done) == ["a", "b", "c"] and not requests.waiting


def test_a_refusal_is_that_of_one_guest() -> None:
    done: list[str] = []
    assert Requests(patience=60.0).make({"a": refuse, "b": lambda: done.append("b")}) == {"a": "no"}
    assert done == ["b"]


def test_who_does_not_answer_is_not_asked_again_and_holds_up_nobody(never: threading.Event) -> None:
    requests, done = Requests(patience=2.0), list[str]()
    assert requests.make({"a": never.wait, "b": lambda: done.append("b")}) == {"a": "no answer yet"}
    assert done == ["b"] and requests.waiting == {"a"}
    assert requests.make({"a": lambda: done.append("a")}) == {"a": "no answer yet"}
    assert done == ["b"]


def test_they_are_bounded(never: threading.Event) -> None:
    requests = Requests(patience=0.0)
    failed = requests.make({str(number): never.wait for number in range(MOST + 2)})
    assert len(failed) == MOST + 2 and len(requests.waiting) == MOST
    assert failed[str(MOST)] == "others do not answer"


def test_a_question_is_asked_again_only_once_it_was_answered(never: threading.Event) -> None:
    asked: list[int] = []

    def ask() -> int:
        asked.append(1)
        never.wait()
        return len(asked)

    question = Question(ask, patience=0.05)
    for _ in range(3):
        with pytest.raises(HyperscalerError, match=r"no answer after 0\.05 s"):
            question.answer()
    assert asked == [1]
    never.set()
    while True:
        with suppress(HyperscalerError):
            assert question.answer() == 1
            break
    assert question.answer() == 2


def test_an_answer_that_is_an_error_is_raised_each_time() -> None:
    question = Question(refuse, patience=60.0)
    for _ in range(2):
        with pytest.raises(HypervisorError, match="no"):
            question.answer()
