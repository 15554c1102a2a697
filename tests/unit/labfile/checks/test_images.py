"""Checks of the nodes' Debian release."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Judge = Callable[[str], list[str]]
HEAD = 'version: "1.0"\nmetadata: {name: x}\nclusters: {hpc: {}, cloud: {}}\n'
SOURCES = "security: {apt_sources: ['%s']}\n"


@pytest.mark.parametrize("release", ["bookworm", "trixie"])
def test_finished_releases_pass(faults: Judge, release: str) -> None:
    assert faults(f"{HEAD}images: {{release: {release}}}\n") == []


def test_a_release_in_testing_is_marked_so(faults: Judge) -> None:
    assert faults(f"{HEAD}images: {{release: forky}}\n") == [
        "4:19: warning: images.release: Debian 14 (testing) changes from day to day, so that labs on it may fail"
        " | write trixie for a release that is finished"
    ]


@pytest.mark.parametrize(
    "line",
    [
        "deb http://a.lan/debian bookworm main",
        "deb [arch=amd64] http://a.lan/debian-security bookworm-security main",
        "deb http://[fd00::1]/debian bookworm/updates main",
    ],
)
def test_sources_of_another_release_are_noticed(faults: Judge, line: str) -> None:
    (fault,) = faults(f"{HEAD}images: {{release: trixie}}\n{SOURCES % line}")
    assert f"security.apt_sources: {line!r} is of Debian 12, and the nodes will have Debian 13" in fault
    assert faults(f"{HEAD}images: {{release: bookworm}}\n{SOURCES % line}") == []
    assert faults(f"{HEAD}{SOURCES % line}") == [], "a lab that is there may have any"
    assert faults(f"{HEAD}images: {{release: trixie, hpc: hpc-base-bookworm}}\n{SOURCES % line}") == []
    assert faults(f"{HEAD}images: {{release: trixie, hpc: mine}}\n{SOURCES % line}") == []


@pytest.mark.parametrize("suite", ["trixie", "trixie-security", "stable", "./", "bookwormish"])
def test_other_suites_are_not_judged(faults: Judge, suite: str) -> None:
    assert faults(f"{HEAD}images: {{release: trixie}}\n{SOURCES % f'deb http://a.lan/debian {suite}'}") == []
