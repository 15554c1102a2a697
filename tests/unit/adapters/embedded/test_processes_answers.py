"""A libvirtd that is asked: one that is slow is not taken for dead."""

from __future__ import annotations

import os

import pytest

from emulator.adapters.embedded import processes
from emulator.adapters.embedded.processes import EmbeddedProcess, answered
from emulator.adapters.system.session_time import SessionWork
from tests.support.waiting import Ticking

DAEMON = EmbeddedProcess(os.getpid(), "libvirtd", 1, os.getpid(), roots_network=True, runs_as_root=True)


def test_one_that_answers_is_not_waited_for() -> None:
    time = Ticking()
    assert answered(lambda: True, lambda: [DAEMON], 10.0, time.clock())
    assert time.seconds == 0


def test_one_that_is_slow_and_at_work_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has ten seconds and takes thirty, with a fifth of a core: a busy host."""
    time = Ticking()
    monkeypatch.setattr(processes, "work_of_session", lambda _session: SessionWork(time.seconds / 5, wants=False))
    assert answered(lambda: time.seconds >= 30, lambda: [DAEMON], 10.0, time.clock())


def test_one_that_hangs_is_given_up_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Ticking()
    monkeypatch.setattr(processes, "work_of_session", lambda _session: SessionWork(3.0, wants=False))
    assert not answered(lambda: False, lambda: [DAEMON], 10.0, time.clock())
    assert time.seconds == pytest.approx(10, abs=1)


def test_one_that_is_gone_is_given_up_too() -> None:
    time = Ticking()
    gone = EmbeddedProcess(2**22 + 1, "libvirtd", 1, 2**22 + 1, roots_network=True, runs_as_root=True)
    assert not answered(lambda: False, lambda: [gone], 10.0, time.clock())
    assert not answered(lambda: False, list, 10.0, time.clock())
