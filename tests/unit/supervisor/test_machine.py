"""The states of a service, on a clock of the test's own."""

from __future__ import annotations

import dataclasses
import signal

import pytest

from emulator.core.ports.services import ServiceRequest, ServiceState
from emulator.supervisor import machine
from emulator.supervisor.machine import Action, Service

WANTED = ServiceRequest("web", "d1", "/bin/web")


def running(at: float = 0.0, *, failures: int = 0) -> Service:
    return dataclasses.replace(machine.started(machine.new(WANTED, at), 7, at), failures=failures)


def test_a_new_service_is_started_at_once() -> None:
    assert machine.step(machine.new(WANTED, 5.0), WANTED, 5.0)[1] is Action.START


def test_a_service_that_runs_is_left_alone() -> None:
    service = running()
    assert machine.step(service, WANTED, 1000.0) == (service, Action.NOTHING)


def test_it_counts_as_running_once_it_says_so_if_it_says_so() -> None:
    waits = machine.started(machine.new(dataclasses.replace(WANTED, notifies=True), 0.0), 7, 0.0)
    assert waits.state is ServiceState.STARTING
    assert machine.ready(waits).state is ServiceState.RUNNING
    assert running().state is ServiceState.RUNNING


def test_each_failure_in_a_row_doubles_the_pause_up_to_a_minute() -> None:
    service, now, pauses = running(), 0.0, []
    for _ in range(9):
        service = machine.ended(service, 1, now)
        assert machine.step(service, WANTED, service.due - 0.01)[1] is Action.NOTHING
        assert machine.step(service, WANTED, service.due)[1] is Action.START
        pauses.append(service.due - now)
        now = service.due
        service = machine.started(service, 8, now)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_a_failure_after_a_steady_minute_is_a_first_one() -> None:
    tired = running(failures=6)
    assert machine.ended(tired, 1, machine.STEADY - 1).failures == 7
    again = machine.ended(tired, 1, machine.STEADY)
    assert (again.failures, again.due) == (1, machine.STEADY + 1)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (3, "it ended with exit code 3; it is started again after 1 s"),
        (0, "it ended with exit code 0; it is started again after 1 s"),
        (-9, "it was ended by SIGKILL; it is started again after 1 s"),
        (-63, "it was ended by signal 63; it is started again after 1 s"),
    ],
)
def test_the_reason_says_how_it_ended(status: int, words: str) -> None:
    assert machine.ended(running(), status, 1.0).reason == words


def test_a_start_that_fails_is_a_failure_too() -> None:
    twice = machine.not_started(machine.not_started(machine.new(WANTED, 0.0), "no such program", 0.0), "again", 2.0)
    assert (twice.failures, twice.due) == (2, 4.0)
    assert twice.reason == "again, 2 times in a row; it is started again after 2 s"


def test_a_command_need_not_wait_for_the_next_try() -> None:
    service = machine.ended(running(failures=9), 1, 1.0)
    assert machine.step(machine.hurried(service, 2.0), WANTED, 2.0)[1] is Action.START
    assert machine.hurried(running(), 2.0) == running()


@pytest.mark.parametrize("wanted", [None, dataclasses.replace(WANTED, memory_mib=5)])
def test_what_is_no_longer_wanted_so_is_asked_and_then_killed(wanted: ServiceRequest | None) -> None:
    ending, action = machine.step(running(), wanted, 100.0)
    assert (ending.state, action, ending.due) == (ServiceState.ENDING, Action.ASK, 100.0 + machine.PATIENCE)
    assert machine.step(ending, wanted, 105.0) == (ending, Action.ASK)
    assert machine.step(ending, wanted, ending.due) == (ending, Action.KILL)
    gone = machine.ended(ending, -signal.SIGTERM, 110.0)
    after, action = machine.step(gone, wanted, 110.0)
    if wanted is None:
        assert action is Action.DROP
    else:
        assert (after.request, action, after.failures) == (wanted, Action.START, 0)


def test_one_that_is_wanted_again_while_it_ends_ends_first() -> None:
    ending, _ = machine.step(running(), None, 0.0)
    assert machine.step(ending, WANTED, 1.0) == (ending, Action.ASK)
    assert machine.step(machine.ended(ending, 0, 2.0), WANTED, 2.0)[1] is Action.START


def test_a_changed_request_wipes_out_earlier_failures() -> None:
    failed = machine.ended(running(failures=6), 1, 1.0)
    other = dataclasses.replace(WANTED, digest="d2")
    service, action = machine.step(failed, other, 1.0)
    assert (service.failures, action) == (0, Action.START)


def test_a_record_that_only_says_more_restarts_nothing() -> None:
    more = dataclasses.replace(WANTED, definition={"needs": ["a"]})
    assert machine.step(running(), more, 1.0)[1] is Action.NOTHING
