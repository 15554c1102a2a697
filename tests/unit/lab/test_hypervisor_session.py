from __future__ import annotations

from uuid import UUID

import pytest

from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.core.errors import HypervisorError
from emulator.core.ports import DaemonPresence
from emulator.lab.hypervisor_session import LazySession
from emulator.operations.status import lab_status
from tests.support.simulated_world import SYSTEM_URI, SimulatedHost, lab_text


class Daemon:
    def __init__(self) -> None:
        self.looks = 0
        self.state = DaemonPresence.ABSENT

    def presence(self) -> DaemonPresence:
        self.looks += 1
        return self.state

    def uri(self) -> str:
        return "simulated:///"

    def start(self) -> str:
        raise AssertionError("a session starts nothing")

    def stop(self) -> None:
        raise AssertionError("a session stops nothing")


class Connection(SimulatedHypervisor):
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


def test_a_plan_asks_the_hypervisor_as_often_for_many_nodes_as_for_few(host: SimulatedHost) -> None:
    asked = []
    for compute in (1, 12):
        lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI, compute=compute))
        before = host.hook.counts.copy()
        assert len(host.plan(lab).changes) > 2 * compute
        asked.append(host.hook.counts - before)
    looks = [
        {name: count for name, count in counts.items() if "domain" in name or "network" in name} for counts in asked
    ]
    assert looks == [{"domains": 1, "networks": 1}] * 2


def test_a_picture_lasts_no_longer_than_the_planning() -> None:
    hypervisor = SimulatedHypervisor()
    session = LazySession(lambda: hypervisor, None)
    with session.pictured():
        hypervisor.seed_foreign_network("late", UUID(int=1), bridge="virbr9")
        seen = session.view()
        assert seen is not None and seen.network("late") is None and seen.networks() == ()
    assert session.view() is hypervisor


@pytest.mark.parametrize("look", ["status", "plan"])
def test_a_look_never_starts_a_hypervisor_that_is_taken_away_meanwhile(host: SimulatedHost, look: str) -> None:
    lab = host.lab_file(lab_text())
    host.provision(lab)
    nothing = host.hook.after
    gone: list[str] = []

    def take_away(name: str) -> None:
        if name == "daemon.presence" and not gone:
            gone.append(name)
            host.hook.after = nothing
            host.destroy()

    host.hook.after = take_away
    if look == "status":
        assert any("no such socket" in problem for problem in lab_status(host.environment(), "demo").problems)
    else:
        with pytest.raises(HypervisorError, match="no such socket"):
            host.plan(lab)
    assert gone
    assert not list((host.machine / "namespaces").iterdir())
    assert not host.home.lab("demo").root.exists()
