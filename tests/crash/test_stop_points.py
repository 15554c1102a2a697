"""Stopped anywhere, a lab can be provisioned on and can be destroyed without a trace.

The pipeline is the real one, on simulated adapters. A stop point is before and after every call of an adapter and
before, within and after every line of the journal; the machine that a crash there leaves is recovered from in both
directions. Of stops that leave the same machine one is recovered from: the next command cannot tell them apart.
"""

from __future__ import annotations

from functools import partial

from emulator.core.errors import HyperscalerError
from tests.support.random_examples import FACTOR
from tests.support.simulated_world import Snapshot
from tests.support.stop_points import (
    SILENT,
    Command,
    Stops,
    Sweep,
    cut,
    documented,
    exits_at,
    fail_at,
    key_of,
    refused,
    stop_at,
)


def told(sweep: Sweep, what: str, stops: Stops, number: int) -> None:
    print(f"{sweep.name}: {what}: {number} of {len(stops.names)} stop points, {len(stops.states)} distinct machines")


def both(sweep: Sweep) -> tuple[tuple[str, Snapshot, Command, Stops], ...]:
    return (
        ("provision", sweep.initial, sweep.provision, sweep.provisioning),
        ("destroy", sweep.done, sweep.destroy, sweep.destroying),
    )


def test_a_crash_anywhere_is_recovered_from(sweep: Sweep) -> None:
    for what, _, _, stops in both(sweep):
        for key, machine in stops.states.items():
            sweep.host.restore(machine)
            sweep.assert_recovers(f"of {what} {stops.where(key)}")
        told(sweep, f"{what} recovered from", stops, len(stops.names))
        assert len(stops.names) > 60 and set(stops.keys) == set(stops.states)


def test_the_end_of_a_sweep_is_the_end_of_the_command(sweep: Sweep) -> None:
    """What the sweep compares with: the commands did their work, beside what others have on the machine."""
    assert len(sweep.done) > len(sweep.initial)
    sweep.host.restore(sweep.done)
    assert not sweep.differences_to_done()
    sweep.assert_destroys("at the end")


def test_an_exception_leaves_no_more_and_no_less_than_a_crash(sweep: Sweep) -> None:
    """No handler swallows what it does not know, and nothing tidies up behind the journal's back."""
    for what, start, command, stops in both(sweep):
        stopped = 0
        for number, name in enumerate(stops.names):
            if name.startswith("within"):
                continue  # half a line is no place for an exception
            sweep.host.restore(start)
            assert stop_at(sweep.host, command, number, cut) == name
            assert key_of(sweep.host.save()) == stops.keys[number], f"{what} stopped {name}"
            stopped += 1
        told(sweep, f"{what} ended by an exception", stops, stopped)
        assert stopped == sum(not name.startswith("within") for name in stops.names)


def test_a_process_that_dies_leaves_the_same(sweep: Sweep) -> None:
    """Killed at one stop point for each machine that a stop can leave, at every stop point in `make fuzz`.

    That stops with the same key leave the same machine is what the test above shows for each of them.
    """
    for what, start, command, stops in both(sweep):
        died: set[str] = set()
        numbers = [number for number, name in enumerate(stops.names) if not name.startswith("within")]
        for number in numbers:
            if FACTOR == 1 and stops.keys[number] in died:
                continue
            sweep.host.restore(start)
            assert exits_at(sweep.host, command, number), stops.names[number]
            assert key_of(sweep.host.save()) == stops.keys[number], f"{what} died {stops.names[number]}"
            died.add(stops.keys[number])
        told(sweep, f"{what} killed", stops, len(died))
        torn = {key for key, name in zip(stops.keys, stops.names, strict=True) if name.startswith("within")}
        assert died | torn == set(stops.states)


def test_a_call_that_fails_is_recovered_from(sweep: Sweep) -> None:
    """Each call ends with each of its documented errors: without having done anything, or after it has done it all.

    Where the call only looks the two are the same to the program, so one of them is played.
    """
    seen: set[str] = set()
    for what, start, command, stops in both(sweep):
        failed = stopped = 0
        numbers = failing(stops)
        for number in numbers:
            name = stops.names[number]
            for which, wanted in enumerate(documented(name)):
                sweep.host.restore(start)
                reached, error = fail_at(sweep.host, command, number, partial(refused, which))
                assert reached == name
                failure = f"{what} failed {name} by a {type(wanted).__name__}"
                assert error is None or isinstance(error, HyperscalerError), f"{failure}: {error!r}"
                failed += 1
                stopped += error is not None
                if (key := key_of(sweep.host.save())) not in seen:
                    seen.add(key)
                    sweep.assert_recovers(failure, plan_again=False)
        told(sweep, f"{what} with a failing call ({failed} failures at {len(numbers)})", stops, len(numbers))
        assert stopped > 10


def test_every_call_has_documented_errors(sweep: Sweep) -> None:
    """No call of the pipeline is left out of the sweep of errors for want of an entry."""
    for _, _, _, stops in both(sweep):
        calls = {name.partition(" ")[2] for name in stops.names if not name.startswith("within")}
        silent = {call for call in calls if not documented(f"before {call}")}
        assert {call.rpartition(".")[2] for call in silent} <= set(SILENT), silent


def failing(stops: Stops) -> list[int]:
    """The stop points at which a call can report an error."""
    found = []
    for number, name in enumerate(stops.names):
        looked = name.startswith("after") and number and stops.keys[number] == stops.keys[number - 1]
        if not (name.startswith("within") or looked or not documented(name)):
            found.append(number)
    return found
