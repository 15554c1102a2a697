"""How many nodes boot at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest

from emulator.core.ports import DomainInfo, DomainState
from emulator.core.waiting.pace import Pace
from emulator.lab.boots.boot_gate import BootGate
from emulator.plan.resources import Domain, Secret
from tests.support.simulated_world import SimulatedHost

KEY = "hyperscaler-host-key: ssh-ed25519 AAAA\n"


@dataclass
class Host:
    """Domains that a step starts, on a clock of their own."""

    directory: Path
    seconds: float = 0.0
    domains: dict[str, DomainInfo] = field(default_factory=dict)

    def look(self, resource: Domain) -> DomainInfo | None:
        return self.domains.get(resource.id)

    def start(self, resource: Domain, *, cpu: float = 0.0) -> None:
        self.domains[resource.id] = DomainInfo("d", UUID(int=1), DomainState.RUNNING, None, cpu_seconds=cpu)

    def says(self, resource: Domain, text: str) -> None:
        with Path(resource.console_log).open("a") as stream:
            stream.write(text)

    def gate(self, boots: int) -> BootGate:
        return BootGate(Pace(boots=boots), self.look, now=lambda: self.seconds)


@pytest.fixture
def host_of(tmp_path: Path) -> Host:
    return Host(tmp_path)


def node(host: Host, name: str) -> Domain:
    return Domain(
        name=name,
        uuid=str(UUID(int=1)),
        node=name,
        vcpus=1,
        memory_mib=1024,
        mac="52:54:00:00:00:01",
        ip="192.168.100.10",
        network="network/hpc",
        volume=f"volume/{name}",
        console_log=str(host.directory / name),
        accelerated=False,
    )


def test_as_many_begin_as_may_boot_at_once(host_of: Host) -> None:
    gate, (a, b, c) = host_of.gate(2), [node(host_of, name) for name in "abc"]
    assert (gate.admits(a), gate.admits(b)) == ("", "")
    assert gate.admits(c) == "2 nodes at a time boot on this host"
    for each in (a, b):
        host_of.start(each)
        gate.ended(each)
    assert gate.admits(c)
    host_of.says(a, "booting\n" + KEY)
    assert gate.admits(c) == ""


def test_a_guest_that_never_comes_up_does_not_keep_the_others_for_ever(host_of: Host) -> None:
    gate, (a, b) = host_of.gate(1), [node(host_of, name) for name in "ab"]
    gate.admits(a)
    host_of.start(a)
    gate.ended(a)
    waited = 0
    while gate.admits(b):
        host_of.seconds += 1
        waited += 1
        assert waited < 1000
    assert waited == 60


def test_the_key_of_an_earlier_boot_proves_nothing(host_of: Host) -> None:
    gate, (a, b) = host_of.gate(1), [node(host_of, name) for name in "ab"]
    host_of.says(a, "yesterday\n" + KEY)
    gate.admits(a)
    host_of.start(a)
    gate.ended(a)
    assert gate.admits(b)
    host_of.says(a, KEY)
    assert not gate.admits(b)


def test_a_log_that_was_begun_anew_is_read_from_its_beginning(host_of: Host) -> None:
    gate, (a, b) = host_of.gate(1), [node(host_of, name) for name in "ab"]
    host_of.says(a, "yesterday " * 50)
    gate.admits(a)
    host_of.start(a)
    gate.ended(a)
    Path(a.console_log).write_text(KEY)
    assert not gate.admits(b)


def test_a_running_guest_that_was_left_alone_does_not_count(host_of: Host) -> None:
    gate, (a, b) = host_of.gate(1), [node(host_of, name) for name in "ab"]
    host_of.start(a, cpu=100.0)
    gate.admits(a)
    assert gate.admits(b)
    gate.ended(a)
    assert not gate.admits(b)


def test_a_step_that_failed_and_one_that_starts_nothing_do_not_count(host_of: Host) -> None:
    gate, (a, b) = host_of.gate(1), [node(host_of, name) for name in "ab"]
    gate.admits(a)
    gate.ended(a)
    assert not gate.admits(b)
    assert not gate.admits(Secret(name="munge", path="munge.key", size_bytes=32, encoding="raw"))


LAB = """\
version: "1.0"
metadata: {name: demo}
clusters:
  hpc:
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 8}
    compute_nodes: {count: 4, cpu_cores: 1, memory_gb: 1, disk_gb: 8}
hypervisor: {uri: embedded}
"""


def test_a_whole_lab_is_made_on_a_host_where_one_node_boots_at_a_time(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real executor, journal and handlers; every guest says its key when it starts."""
    made: list[BootGate] = []
    most: list[int] = []

    class Counting(BootGate):
        def admits(self, resource: object) -> str:
            answer = super().admits(resource)  # type: ignore[arg-type]
            most.append(len(self._boots))
            return answer

    def gate(*arguments: object) -> BootGate:
        made.append(Counting(*arguments))  # type: ignore[arg-type]
        return made[-1]

    whole = host.environment

    def slow() -> object:
        from dataclasses import replace

        return replace(whole(), pace=lambda _spec: Pace(factor=2.0, boots=1, why="one core"))

    monkeypatch.setattr(host, "environment", slow)
    monkeypatch.setattr("emulator.lab.apply_plan.BootGate", gate)
    host.provision(host.lab_file(LAB))
    assert made
    assert max(most) == 1
