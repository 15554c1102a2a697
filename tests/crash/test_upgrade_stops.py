"""An upgrade that was stopped anywhere goes on with the same command, and the lab can be provisioned meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from emulator.core.errors import ConflictError
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.lab.lab_files import LoadedLab, load_recorded_lab
from emulator.lab.planning.kubernetes_on_disks import on_the_way_to
from emulator.operations.upgrade import Request, Upgraded, upgrade
from tests.support.branches import ENDED, TOLD, meet_faults
from tests.support.kubernetes_cluster import HEAD, Cluster, found
from tests.support.simulated_world import LAB, SimulatedHost, Snapshot
from tests.support.stop_points import find_stops, in_sequence, one_documented

WORKER = "cloud-cpu-worker-1"
CLOUD = """\
version: "1.0"
metadata: {{name: demo}}
timeouts: {{boot: 10}}
clusters:
  cloud:
    control_plane: {{cpu_cores: 2, memory_gb: 2, disk_gb: 10}}
    worker_nodes: {{cpu_workers: {{count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 10}}}}
    kubernetes_config: {{source: modules, version: "{version}"}}
hypervisor: {{uri: embedded}}
"""


@dataclass
class Standing:
    """A lab with 1.36.5, and the file that asks for 1.37."""

    host: SimulatedHost
    wish: LoadedLab
    start: Snapshot

    def upgrade(self) -> Upgraded:
        return upgrade(self.host.environment(), LAB, Request("1.37", self.wish), SilentReporter(), StopFlag())

    def assert_goes_on(self, machine: Snapshot, where: str) -> None:
        self.host.restore(machine)
        disks = self.host.disk_data()
        try:
            self.host.provision(load_recorded_lab(self.host.home, LAB))
        except ConflictError:  # stopped between the record of the new version and the copy of the file
            self.host.provision(self.wish)
        assert self.host.disk_data() == disks, f"provision made disks anew after a stop {where}"
        self.host.restore(machine)
        self.upgrade()
        cluster = Cluster.read(self.host.cluster)
        assert cluster is not None
        assert set(cluster.versions().values()) == {"1.37.2"}, where
        assert not any(member.draining for member in cluster.members.values()), where
        facts = self.host.state().facts
        assert (facts["kubernetes/version"], facts["phase/verify"]) == ("1.37.2", "done"), where
        assert not on_the_way_to(self.host.state()), where
        assert not any(member.staged for member in cluster.members.values()), f"images of 1.36.5 stay {where}"
        assert self.host.home.lab(LAB).spec.read_bytes() == self.wish.source, where
        plan = self.host.plan(self.wish)
        assert plan.is_empty and not plan.blockers, where
        assert self.upgrade().changed == {}, where


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    directory: Path = tmp_path_factory.mktemp("upgrade") / "host"
    with in_sequence():
        host = SimulatedHost(directory)
        host.provision(host.lab_file(CLOUD.format(version="1.36")))
        found(host.cluster, {HEAD: "1.36.5", WORKER: "1.36.5"})
        yield Standing(host, host.lab_file(CLOUD.format(version="1.37")), host.save())
        host.close()


def test_a_crash_anywhere_is_gone_on_from(standing: Standing) -> None:
    standing.host.restore(standing.start)
    stops = find_stops(standing.host, standing.upgrade)
    assert {f"before guests.upgrade.{step}" for step in ("stage", "control-plane", "worker", "forget")} <= set(
        stops.names
    )
    for key, machine in stops.states.items():
        standing.assert_goes_on(machine, stops.where(key))
    assert len(stops.states) > 12


def test_a_call_that_fails_is_told_and_gone_on_from(standing: Standing) -> None:
    standing.host.restore(standing.start)
    stops = find_stops(standing.host, standing.upgrade)

    standing.host.restore(standing.start)
    met = meet_faults(standing.host, standing.upgrade, stops, one_documented)
    assert len(met.ends) > 20
    for end in met.ends:
        assert end.how in (ENDED, TOLD), end
    for key, machine in met.machines.items():
        standing.assert_goes_on(machine, key)
