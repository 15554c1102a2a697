from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.core.units import GIB, MIB
from emulator.services.reserve import Decision, GuestSeen, Memory, decide

RESERVE = 2 * GIB
ROOM, SHORT = 10 * GIB, GIB


def runs(allocated: int) -> GuestSeen:
    return GuestSeen(running=True, paused=False, allocated=allocated)


def paused(allocated: int) -> GuestSeen:
    return GuestSeen(running=False, paused=True, allocated=allocated)


def test_with_room_nothing_happens() -> None:
    decision = decide(ROOM, RESERVE, {"a": runs(5)}, Memory({"a": 1}))
    assert decision == Decision((), (), Memory({"a": 5}))


def test_below_the_reserve_what_grows_is_paused_and_what_does_not_goes_on() -> None:
    decision = decide(SHORT, RESERVE, {"a": runs(5), "b": runs(7), "c": runs(3)}, Memory({"a": 4, "b": 7, "c": 9}))
    assert decision.pause == ("a",)
    assert decision.memory == Memory({"a": 5, "b": 7, "c": 3}, frozenset({"a"}))


def test_the_first_look_knows_of_no_growth() -> None:
    assert decide(SHORT, RESERVE, {"a": runs(5)}, Memory()).pause == ()


@pytest.mark.parametrize(("free", "resumed"), [(RESERVE + 255 * MIB, ()), (RESERVE + 256 * MIB, ("a",))])
def test_they_go_on_when_there_is_a_little_more_than_the_reserve(free: int, resumed: tuple[str, ...]) -> None:
    memory = Memory({"a": 5}, frozenset({"a"}))
    assert decide(free, RESERVE, {"a": paused(5)}, memory).resume == resumed


def test_what_another_person_paused_or_started_is_left_alone() -> None:
    guests = {"theirs": paused(5), "ours": runs(5)}
    decision = decide(ROOM, RESERVE, guests, Memory({}, frozenset({"ours", "gone"})))
    assert decision.resume == () and decision.memory.paused == frozenset()


def test_a_small_reserve_has_a_small_margin() -> None:
    memory = Memory({}, frozenset({"a"}))
    assert decide(9 * MIB, 8 * MIB, {"a": paused(5)}, memory).resume == ("a",)


@given(
    st.integers(0, 4 * GIB),
    st.dictionaries(st.sampled_from("abc"), st.tuples(st.booleans(), st.integers(0, 9))),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)),
    st.frozensets(st.sampled_from("abcd")),
)
def test_nobody_is_paused_and_resumed_at_once_and_every_pause_is_remembered(
    free: int, guests: dict[str, tuple[bool, int]], before: dict[str, int], held: frozenset[str]
) -> None:
    seen = {name: GuestSeen(running, not running, allocated) for name, (running, allocated) in guests.items()}
    decision = decide(free, RESERVE, seen, Memory(before, held))
    assert not (decision.pause and decision.resume)
    assert set(decision.pause) <= decision.memory.paused <= set(guests)
    assert set(decision.resume) <= held
    assert all(seen[name].running for name in decision.pause) and all(seen[name].paused for name in decision.resume)


def test_one_that_grows_while_it_is_said_to_stand_still_is_stopped() -> None:
    """At the second such look: at the first one, writes may still have been under way when it was paused."""
    first = decide(SHORT, RESERVE, {"a": paused(5)}, Memory({"a": 4}, frozenset({"a"})))
    assert first.pause == first.stop == ()
    then = decide(SHORT, RESERVE, {"a": paused(6)}, first.memory)
    assert then.pause == () and then.stop == ("a",)
    assert then.memory.paused == {"a"} and not then.memory.others
    assert decide(SHORT, RESERVE, {"a": paused(6)}, then.memory).stop == ()


def test_whom_another_person_paused_is_known_when_it_is_stopped() -> None:
    memory = Memory({"a": 4}, at_rest=frozenset({"a"}))
    decision = decide(SHORT, RESERVE, {"a": paused(5)}, memory)
    assert decision.stop == ("a",) and decision.memory.others == {"a"}
    assert decide(ROOM, RESERVE, {"a": paused(5)}, memory).stop == ()
