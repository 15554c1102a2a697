"""Stopped anywhere in an edit, a second provision, a configuration or a release of GPUs; and labs of other kinds.

The same as `test_stop_points.py`, for what begins with a lab that is there: from wherever the command was stopped, the
lab comes to what its file asks for, with the disks of the nodes that stay, and can be taken away without a trace.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.support.journeys import JOURNEYS, Journey, JourneySweep, dies_in_parallel, opened
from tests.support.random_examples import FACTOR
from tests.support.simulated_world import lab_text

# A second provision that changes nothing has few places to be stopped at that differ.
LEAST = 20


@pytest.fixture(params=list(JOURNEYS))
def sweep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JourneySweep]:
    with opened(request.param, tmp_path_factory.mktemp("journey") / "host") as made:
        yield made


def test_stopped_anywhere_on_the_way(sweep: JourneySweep) -> None:
    recovered = 0
    for key, machine in sweep.stops.states.items():
        sweep.host.restore(machine)
        sweep.assert_recovers(f"of {sweep.name} {sweep.stops.where(key)}")
        recovered += sweep.stops.keys.count(key)
    print(f"{sweep.name}: {recovered} of {len(sweep.stops.names)} stop points, {len(sweep.stops.states)} machines")
    assert recovered == len(sweep.stops.names) > LEAST


@pytest.mark.parametrize("name", ["made", "a node less", "a slice more"])
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
