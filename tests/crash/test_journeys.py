"""Stopped or failing anywhere in an edit, a second provision, a configuration or a release of GPUs; and labs of other
kinds.

The same as `test_stop_points.py`, for what begins with a lab that is there: from wherever the command was stopped, the
lab comes to what its file asks for, with the disks of the nodes that stay, and can be taken away without a trace.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import pytest

from emulator.core.errors import HyperscalerError
from tests.support.branches import ENDED, TOLD, meet_faults
from tests.support.journeys import JOURNEYS, Journey, JourneySweep, dies_in_parallel, opened
from tests.support.random_examples import FACTOR
from tests.support.simulated_world import lab_text
from tests.support.stop_points import documented

# A second provision that changes nothing has few places to be stopped at that differ.
LEAST = 20


@pytest.fixture(scope="module", params=list(JOURNEYS))
def sweep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JourneySweep]:
    with opened(request.param, tmp_path_factory.mktemp("journey") / "host") as made:
        yield made


def test_stopped_anywhere_on_the_way(sweep: JourneySweep) -> None:
    recovered = 0
    for key, machine in sweep.stops.states.items():
        sweep.assert_recovers_from(key, machine, f"of {sweep.name} {sweep.stops.where(key)}")
        recovered += sweep.stops.keys.count(key)
    print(f"{sweep.name}: {recovered} of {len(sweep.stops.names)} stop points, {len(sweep.stops.states)} machines")
    assert recovered == len(sweep.stops.names) > LEAST


def test_a_call_that_fails_on_the_way(sweep: JourneySweep) -> None:
    """At each stop point one of the call's documented errors, in turn; all of them in `make fuzz`."""
    able = [name for name in sweep.stops.names if documented(name) and not name.startswith("within")]

    def faults(number: int, name: str) -> Sequence[HyperscalerError]:
        errors = documented(name)
        return errors if FACTOR > 1 or not errors else (errors[number % len(errors)],)

    sweep.host.restore(sweep.start)
    met = meet_faults(sweep.host, sweep.act, sweep.stops, faults)
    for end in met.ends:
        assert end.how in (ENDED, TOLD), end
        where = f"of {sweep.name}, failed {end.place}: {end.said}"
        sweep.assert_recovers_from(end.key, met.machines[end.key], where)
    print(f"{sweep.name}: {len(met.ends)} failures at {len(able)} stop points, {len(met.machines)} distinct machines")
    assert len(met.ends) >= len(able) > 10


@pytest.mark.parametrize("name", ["made", "a node less", "a slice more", "both clusters"])
def test_a_process_that_dies_with_two_effects_under_way(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(JOURNEYS, "made", Journey(lab_text(compute=3)))
    with opened(name, tmp_path_factory.mktemp("journey") / "host") as sweep:
        chance, died = random.Random(name), 0
        length = len(sweep.stops.names)
        # A place in each stretch of the way, so that none of them is left out by chance.
        tries = 16 * FACTOR
        for seed in range(tries):
            number = int((seed + chance.random()) * length / tries)
            sweep.host.restore(sweep.start)
            if dies_in_parallel(sweep.host, sweep.act, number, seed):
                died += 1
                sweep.assert_recovers(f"of {name}, dead at its call {number} (seed {seed})")
        print(f"{name}: recovered from {died} deaths with two effects under way")
        assert died > tries * 0.7
