"""A call fails on the way: in an edit, a second provision, a configuration, a release of GPUs, other kinds of lab."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from emulator.core.errors import HyperscalerError
from tests.support.journeys import JOURNEYS, JourneySweep, opened
from tests.support.random_examples import FACTOR
from tests.support.stop_points import documented, fail_at, key_of, refused

# `test_running_lab.py` plays every error in these, and looks at the disks.
ELSEWHERE = ("more memory", "a larger disk", "a second time")


@pytest.fixture(params=[name for name in JOURNEYS if name not in ELSEWHERE])
def sweep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JourneySweep]:
    with opened(request.param, tmp_path_factory.mktemp("journey") / "host") as made:
        yield made


def test_a_call_that_fails_on_the_way(sweep: JourneySweep) -> None:
    """At each stop point one of the call's documented errors, in turn; all of them in `make fuzz`."""
    seen: set[str] = set()
    failed = 0
    numbers = [number for number, name in enumerate(sweep.stops.names) if can_fail(name)]
    for number in numbers:
        name = sweep.stops.names[number]
        errors = documented(name)
        for which in range(len(errors)) if FACTOR > 1 else (number % len(errors),):
            sweep.host.restore(sweep.start)
            reached, error = fail_at(sweep.host, sweep.act, number, partial(refused, which))
            assert reached == name
            assert error is None or isinstance(error, HyperscalerError), f"{name}: {error!r}"
            failed += 1
            if (key := key_of(sweep.host.save())) not in seen:
                seen.add(key)
                sweep.assert_recovers(f"of {sweep.name}, failed {name}", plan_again=False)
    print(f"{sweep.name}: {failed} failures at {len(numbers)} stop points, {len(seen)} distinct machines")
    assert failed >= len(numbers) > 10


def can_fail(name: str) -> bool:
    return not name.startswith("within") and bool(documented(name))
