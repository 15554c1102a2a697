from __future__ import annotations

import pytest

from emulator.app.session import LazySession
from emulator.errors import HypervisorError
from emulator.ports import DaemonPresence


class Daemon:
    def __init__(self) -> None:
        self.looks = 0
        self.state = DaemonPresence.ABSENT

    def presence(self) -> DaemonPresence:
        self.looks += 1
        return self.state


class Connection:
    closed = False

    def close(self) -> None:
        self.closed = True


def test_a_hypervisor_that_is_down_is_looked_for_once_until_it_is_started() -> None:
    daemon, connection = Daemon(), Connection()
    session = LazySession(lambda: connection, daemon)
    assert [session.peek() for _ in range(500)] == [None] * 500
    assert daemon.looks == 1
    with pytest.raises(HypervisorError, match="does not run"):
        session.get()
    daemon.state = DaemonPresence.UP
    session.reset()
    assert session.get() is connection


def test_a_connection_is_opened_once_and_closed_by_reset() -> None:
    opened: list[Connection] = []

    def open_() -> Connection:
        opened.append(Connection())
        return opened[-1]

    session = LazySession(open_, None)
    assert session.peek() is session.get()
    assert len(opened) == 1
    session.reset()
    assert opened[0].closed
    session.get()
    assert len(opened) == 2
