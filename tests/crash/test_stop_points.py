"""Stopped anywhere, a lab can be provisioned on and can be destroyed without a trace.

The pipeline is the real one, on simulated adapters. A stop point is before and after every call of an adapter and
before, within and after every line of the journal; the machine that a crash there leaves is recovered from in both
directions. Of stops that leave the same machine one is recovered from: the next command cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from emulator.core.errors import HyperscalerError
from tests.support.branches import CUT, ENDED, KILLED, TOLD, meet_faults
from tests.support.random_examples import FACTOR
from tests.support.simulated_world import Snapshot
from tests.support.stop_points import (
    SILENT,
    Command,
    Killed,
    PowerCut,
    Stops,
    Sweep,
    documented,
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
            sweep.assert_recovers_from(key, machine, f"of {what} {stops.where(key)}")
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
        sweep.host.restore(start)
        met = meet_faults(sweep.host, command, stops, lambda _number, _name: [PowerCut()])
        for end, number in zip(met.ends, reachable(stops), strict=True):
            assert (end.place, end.how) == (stops.names[number], CUT), end
            assert end.key == stops.keys[number], f"{what} stopped {end.place}"
        told(sweep, f"{what} ended by an exception", stops, len(met.ends))


def test_a_process_that_dies_leaves_the_same(sweep: Sweep) -> None:
    """Killed at one stop point for each machine that a stop can leave, at every stop point in `make fuzz`.

    That stops with the same key leave the same machine is what the test above shows for each of them.
    """
    for what, start, command, stops in both(sweep):
        first = {stops.keys[number]: number for number in reversed(reachable(stops))}
        numbers = set(first.values()) if FACTOR == 1 else set(reachable(stops))
        sweep.host.restore(start)
        met = meet_faults(sweep.host, command, stops, partial(killed_at, numbers))
        for end, number in zip(met.ends, sorted(numbers), strict=True):
            assert (end.place, end.how) == (stops.names[number], KILLED), end
            assert end.key == stops.keys[number], f"{what} died {stops.names[number]}"
        died = {end.key for end in met.ends}
        told(sweep, f"{what} killed", stops, len(died))
        torn = {key for key, name in zip(stops.keys, stops.names, strict=True) if name.startswith("within")}
        assert died | torn == set(stops.states)


def test_a_call_that_fails_is_recovered_from(sweep: Sweep) -> None:
    """Each call ends with each of its documented errors: without having done anything, or after it has done it all.

    Where the call only looks the two are the same to the program, so one of them is played.
    """
    for what, start, command, stops in both(sweep):
        numbers = set(failing(stops))
        sweep.host.restore(start)
        faults = partial(errors_at, numbers)
        met = meet_faults(sweep.host, command, stops, faults)
        assert len(met.ends) == sum(len(documented(stops.names[number])) for number in numbers)
        for end in met.ends:
            assert end.how in (ENDED, TOLD), f"{what} failed {end}"
            where = f"{what} failed {end.place}: {end.said}"
            sweep.assert_recovers_from(end.key, met.machines[end.key], where)
        told(sweep, f"{what} with a failing call ({len(met.ends)} failures at {len(numbers)})", stops, len(numbers))
        assert sum(end.how == TOLD for end in met.ends) > 10


def test_every_call_has_documented_errors(sweep: Sweep) -> None:
    """No call of the pipeline is left out of the sweep of errors for want of an entry."""
    for _, _, _, stops in both(sweep):
        calls = {name.partition(" ")[2] for name in stops.names if not name.startswith("within")}
        silent = {call for call in calls if not documented(f"before {call}")}
        assert {call.rpartition(".")[2] for call in silent} <= set(SILENT), silent


def errors_at(numbers: set[int], number: int, name: str) -> Sequence[HyperscalerError]:
    return documented(name) if number in numbers else ()


def killed_at(numbers: set[int], number: int, _name: str) -> Sequence[BaseException]:
    return [Killed()] if number in numbers else ()


def reachable(stops: Stops) -> list[int]:
    """All stop points but those within a journal line: half a line is no place for an exception."""
    return [number for number, name in enumerate(stops.names) if not name.startswith("within")]


def failing(stops: Stops) -> list[int]:
    """The stop points at which a call can report an error."""
    found = []
    for number, name in enumerate(stops.names):
        looked = name.startswith("after") and number and stops.keys[number] == stops.keys[number - 1]
        if not (name.startswith("within") or looked or not documented(name)):
            found.append(number)
    return found
