"""The pace of a host: never impatient, bounded, and no faster for a worse reading."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.core.waiting.pace import MOST, REFERENCE_SECONDS, Pace, PaceReadings, pace_of

QUIET = PaceReadings(cores=8, load=0.1, pressure=0.0, work_cpu=REFERENCE_SECONDS, work_wall=REFERENCE_SECONDS)
READINGS = st.builds(
    PaceReadings,
    cores=st.floats(0, 512),
    load=st.floats(0, 1e6),
    pressure=st.none() | st.floats(0, 100),
    work_cpu=st.floats(0, 100),
    work_wall=st.floats(0, 1e4),
)
WORSE = st.sampled_from(["cores", "load", "pressure", "work_wall", "work"])


def test_a_quiet_host_with_kvm_is_as_fast_as_any() -> None:
    pace = pace_of(QUIET, accelerated=True, guests=5)
    assert (pace.factor, pace.boots, pace.forks) == (1.0, 8, 16)
    assert str(pace).startswith("8 cores with KVM, hardly other work on them (load 0.1): waits are 1.0 times as long")


def test_two_busy_cores_without_kvm() -> None:
    busy = replace(QUIET, cores=2, load=5.0, pressure=90.0)
    pace = pace_of(busy, accelerated=False, guests=5)
    assert pace.factor == pytest.approx(3 * 5 / 4 * 2)
    assert (pace.boots, pace.forks) == (2, 8)
    assert "without KVM, other work on them (load 5.0)" in str(pace)


def test_what_takes_processor_time_from_us_counts_at_once() -> None:
    """A neighbour on the same machine: the load average here knows nothing of it, the work does."""
    stolen = replace(QUIET, work_wall=4 * REFERENCE_SECONDS)
    assert pace_of(stolen, accelerated=True, guests=1).factor == pytest.approx(4.0)


def test_a_wait_has_its_own_seconds_at_least_and_goes_on_with_progress() -> None:
    patience = Pace(factor=3.0).patience(600)
    assert (patience.usual, patience.quiet, patience.longest) == (600, 450, 7200)
    assert Pace(factor=3.0).seconds(20) == 60


@given(READINGS, st.booleans(), st.integers(0, 200))
def test_the_pace_is_bounded_for_any_reading(readings: PaceReadings, accelerated: bool, guests: int) -> None:
    pace = pace_of(readings, accelerated=accelerated, guests=guests)
    assert 1.0 <= pace.factor <= MOST
    assert 1 <= pace.boots <= 8
    assert 4 <= pace.forks <= 16
    assert pace.patience(60).usual == 60
    assert pace.patience(60).longest <= 60 * 4 * MOST


@given(READINGS, st.booleans(), st.integers(0, 200), WORSE, st.floats(1, 100))
def test_a_worse_host_never_gets_less_patience(
    readings: PaceReadings, accelerated: bool, guests: int, what: str, by: float
) -> None:
    worse = {
        "cores": replace(readings, cores=readings.cores / by),
        "load": replace(readings, load=readings.load * by),
        "pressure": replace(readings, pressure=min((readings.pressure or 0.0) + by, 100.0)),
        "work_wall": replace(readings, work_wall=readings.work_wall * by),
        # The same share of a slower processor.
        "work": replace(readings, work_cpu=readings.work_cpu * by, work_wall=readings.work_wall * by),
    }[what]
    before = pace_of(readings, accelerated=accelerated, guests=guests)
    after = pace_of(worse, accelerated=accelerated, guests=guests)
    assert after.factor >= before.factor * (1 - 1e-9)
    assert after.boots <= before.boots
    assert after.forks <= before.forks


@given(READINGS, st.integers(0, 200), st.integers(0, 200))
def test_emulation_and_more_guests_never_get_less_patience(readings: PaceReadings, guests: int, more: int) -> None:
    fast = pace_of(readings, accelerated=True, guests=guests)
    slow = pace_of(readings, accelerated=False, guests=guests + more)
    assert slow.factor >= fast.factor
    assert slow.boots <= fast.boots
