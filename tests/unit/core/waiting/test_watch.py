"""Waits by a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from emulator.core.stop import StopFlag
from emulator.core.waiting.watch import Look, Patience, Watch, wait_until
from tests.support.waiting import Ticking

PATIENCE = Patience(usual=60, quiet=20, longest=600)


def counting(step: Callable[[int], object], *, done_at: int | None = None) -> Callable[[], Look[int]]:
    """Looks whose sign is `step` of their number."""
    numbers: Iterator[int] = iter(range(10**9))

    def look() -> Look[int]:
        number = next(numbers)
        return Look(number, number == done_at, step(number), pause=5.0)

    return look


def test_what_is_there_is_not_waited_for() -> None:
    time = Ticking()
    waited = wait_until(counting(int, done_at=0), PATIENCE, clock=time.clock())
    assert waited.done
    assert time.seconds == 0


def test_what_goes_on_is_not_given_up_however_slow_it_is() -> None:
    time = Ticking()
    waited = wait_until(counting(lambda number: number // 3, done_at=100), PATIENCE, clock=time.clock())
    assert waited.done
    assert waited.seconds == 500


def test_without_progress_it_is_given_up_after_the_usual_time() -> None:
    waited = wait_until(counting(lambda _: "still"), PATIENCE, clock=Ticking().clock())
    assert not waited.done
    assert str(waited.given_up) == "after 60 s, the last 60 s of them without progress"


def test_progress_that_stops_late_is_waited_for_once_more() -> None:
    waited = wait_until(counting(lambda number: min(number, 20)), PATIENCE, clock=Ticking().clock())
    assert waited.given_up is not None
    assert (waited.given_up.seconds, waited.given_up.quiet) == (120, 20)


def test_progress_without_end_ends_at_the_bound() -> None:
    waited = wait_until(counting(int), PATIENCE, clock=Ticking().clock())
    assert str(waited.given_up) == "after 600 s, although there still was progress"


def test_a_program_that_was_starved_has_seen_nothing_yet() -> None:
    """Ten minutes between two looks: a busy host, or one that slept. What is waited for had no time either."""
    time = Ticking()
    watch = Watch(Patience(usual=10, quiet=10, longest=10_000), now=lambda: time.seconds)
    assert watch.look("a") is None
    time.sleep(600)
    assert watch.look("a") is None
    time.sleep(1)
    assert watch.look("a") is None
    time.sleep(1)
    assert watch.look("a") is not None


def test_a_stop_ends_the_wait_as_neither_done_nor_given_up() -> None:
    stop = StopFlag()
    stop.set()
    waited = wait_until(counting(int), PATIENCE, stop=stop)
    assert not waited.done
    assert waited.given_up is None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.floats(0, 100), st.floats(0, 100), st.floats(0, 500))
def test_it_is_given_up_within_its_bounds_whatever_is_seen(
    signs: list[int], usual: float, quiet: float, longest: float
) -> None:
    patience = Patience(usual, quiet, usual + quiet + longest)
    time = Ticking()
    waited = wait_until(
        counting(lambda number: signs[number % len(signs)] if number < 200 else "end"), patience, clock=time.clock()
    )
    assert waited.given_up is not None
    assert waited.given_up.seconds >= patience.usual
    assert waited.given_up.seconds <= patience.longest + 5.0
    assert waited.given_up.moving == (waited.given_up.quiet < patience.quiet)
