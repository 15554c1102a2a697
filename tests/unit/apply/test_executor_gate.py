"""Steps that a gate keeps back: they begin later, and hang nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.apply import executor
from emulator.apply.executor import Executor
from emulator.apply.journal import Journal
from emulator.apply.state import StateStore
from emulator.core.errors import HyperscalerError, HypervisorError, InterruptedRunError
from emulator.core.progress import Event, SilentReporter
from emulator.core.stop import StopFlag
from emulator.plan.resources import Resource
from tests.unit.apply.test_executor import Recorder, create, plan


class Counting:
    """Admits one step at a time, and refuses each `refusals` times before."""

    def __init__(self, refusals: int = 0, stop: StopFlag | None = None) -> None:
        self.inside = self.most = self.asked = 0
        self.refusals, self.stop = refusals, stop

    def admits(self, resource: Resource) -> str:
        self.asked += 1
        if self.stop is not None:
            self.stop.set()
        if self.inside or self.asked <= self.refusals:
            return "1 node at a time boots on this host"
        self.inside += 1
        self.most = max(self.most, self.inside)
        return ""

    def ended(self, resource: Resource) -> None:
        self.inside -= 1


class Listening(SilentReporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def event(self, event: Event) -> None:
        if event.message.startswith("waits"):
            self.said.append(f"{event.subject} {event.message}")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "_HELD_PAUSE", 0.001)


def apply(
    tmp_path: Path, handler: Recorder, gate: Counting, stop: StopFlag | None = None
) -> tuple[HyperscalerError | None, Listening]:
    store, reporter = StateStore(Journal(tmp_path / "j"), boot_id="b"), Listening()
    made = Executor({"volume": handler}, store, reporter, stop=stop, gate=gate)
    return made.run(plan(create("a"), create("b"), create("c"))), reporter


def test_all_are_made_one_at_a_time_and_the_wait_is_said_once(tmp_path: Path) -> None:
    handler, gate = Recorder(), Counting(refusals=5)
    error, reporter = apply(tmp_path, handler, gate)
    assert error is None
    assert sorted(handler.calls) == ["ensure a", "ensure b", "ensure c"]
    assert gate.most == 1
    assert len(reporter.said) == len(set(reporter.said))
    assert "volume/a waits: 1 node at a time boots on this host" in reporter.said


def test_a_stop_ends_the_wait(tmp_path: Path) -> None:
    stop = StopFlag()
    error, _ = apply(tmp_path, Recorder(), Counting(refusals=10**9, stop=stop), stop)
    assert isinstance(error, InterruptedRunError)
    assert "3 steps still to do" in error.what


def test_after_a_failure_what_was_kept_back_is_left_out(tmp_path: Path) -> None:
    handler = Recorder(failing="a")
    error, _ = apply(tmp_path, handler, Counting())
    assert isinstance(error, HypervisorError)
    assert handler.calls == ["ensure a"]
