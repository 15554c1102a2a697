"""Bounds on connections: open ones, and how fast new ones come."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest

from emulator.services.gateway.limits import Bounds, Limits, source_of


def test_one_has_its_share_and_no_more() -> None:
    limits = Limits(Bounds(each=2, all=100, burst=50, rate=1.0))
    assert [limits.refusal("a", 0.0) for _ in range(3)] == ["", "", "it has 2 open connections"]
    assert limits.refusal("b", 0.0) == ""
    limits.ended("a")
    assert limits.refusal("a", 0.0) == ""


def test_all_together_have_theirs() -> None:
    limits = Limits(Bounds(each=2, all=3, burst=50, rate=1.0))
    assert [limits.refusal(who, 0.0) for who in "aabb"] == ["", "", "", "3 connections are open"]


def test_new_ones_come_as_fast_as_the_rate_after_the_first_burst() -> None:
    limits = Limits(Bounds(each=100, all=1000, burst=3, rate=0.5))
    assert [bool(limits.refusal("a", 0.0)) for _ in range(5)] == [False, False, False, True, True]
    # What is refused costs nothing: two seconds later there is room for one.
    assert [bool(limits.refusal("a", 2.0)) for _ in range(2)] == [False, True]
    assert [bool(limits.refusal("a", 1000.0)) for _ in range(4)] == [False, False, False, True]


def test_ever_new_addresses_do_not_fill_the_memory() -> None:
    limits = Limits(Bounds(each=1, all=10**9, burst=1, rate=1.0))
    for number in range(6000):
        limits.refusal(source_of(str(IPv6Address(number << 64))), float(number))
        limits.ended(source_of(str(IPv6Address(number << 64))))
    assert len(limits._spent) <= 4097
    assert not limits._open


@pytest.mark.parametrize(
    ("address", "who"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
    ],
)
def test_whose_connection_it_is(address: str, who: str) -> None:
    assert source_of(address) == who
