"""A lab that runs keeps its disks, whatever meets a second `provision` of it or of an edited file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from emulator.core.errors import DamagedDiskError, HyperscalerError
from emulator.lab.lab_files import LoadedLab
from tests.support.branches import ENDED, TOLD, meet_faults
from tests.support.simulated_world import LAB, SimulatedHost, Snapshot
from tests.support.stop_points import Stops, Sweep, documented, find_stops

EDITS = {
    "the same file": ("", ""),
    "more memory": ("memory_gb: 1", "memory_gb: 2"),
    "larger disks": ("disk_gb: 4", "disk_gb: 5"),
}


@dataclass
class Edit:
    """An edit of the sweep's lab where that runs: the file, what is on the disks, and where a provision can be stopped.

    `kept` has the machines (`key_of`) whose disks were seen to be kept.
    """

    name: str
    lab: LoadedLab
    disks: dict[str, str]
    stops: Stops
    kept: set[str] = field(default_factory=set)

    def assert_keeps_disks(self, host: SimulatedHost, key: str, machine: Snapshot, where: str) -> None:
        """From a machine that a stop left, the next provision keeps them, too; once for each machine."""
        if key in self.kept:
            return
        host.restore(machine)
        assert host.disk_data() == self.disks, where
        host.provision(self.lab)
        assert host.disk_data() == self.disks, f"{where}, and provisioned again"
        assert host.plan(self.lab).is_empty, where
        self.kept.add(key)


def edited(sweep: Sweep, edit: str) -> LoadedLab:
    old, new = EDITS[edit]
    text = sweep.lab.source.decode()
    assert old in text
    return sweep.host.lab_file(text.replace(old, new))


@pytest.fixture(scope="module")
def edits() -> dict[tuple[str, str], Edit]:
    """What the tests found out, by lab and edit."""
    return {}


@pytest.fixture(params=EDITS)
def edit(request: pytest.FixtureRequest, sweep: Sweep, edits: dict[tuple[str, str], Edit]) -> Edit:
    name, host, lab = request.param, sweep.host, edited(sweep, request.param)
    if (sweep.name, name) not in edits:
        host.restore(sweep.done)
        disks = host.disk_data()
        assert len(disks) > 1
        stops = find_stops(host, lambda: host.provision(lab))
        assert host.disk_data() == disks
        edits[sweep.name, name] = Edit(name, lab, disks, stops)
    return edits[sweep.name, name]


def test_no_crash_costs_a_disk(sweep: Sweep, edit: Edit) -> None:
    for key, machine in edit.stops.states.items():
        edit.assert_keeps_disks(sweep.host, key, machine, edit.stops.where(key))
    print(f"{sweep.name}: {edit.name}: {len(edit.stops.names)} stop points, {len(edit.stops.states)} distinct machines")


def test_no_failing_call_costs_a_disk(sweep: Sweep, edit: Edit) -> None:
    """Each call fails with each documented error, before and after it has done what it was asked for."""
    host, stops = sweep.host, edit.stops

    def faults(number: int, name: str) -> Sequence[HyperscalerError]:
        looked = name.startswith("after") and number > 0 and stops.keys[number] == stops.keys[number - 1]
        # A damaged disk is the one thing that has to be made anew.
        return () if looked else [error for error in documented(name) if not isinstance(error, DamagedDiskError)]

    host.restore(sweep.done)
    met = meet_faults(host, lambda: host.provision(edit.lab), stops, faults)
    for end in met.ends:
        assert end.how in (ENDED, TOLD), f"{edit.name}: {end}"
    for key, machine in met.machines.items():
        where = f"{edit.name}: {[end for end in met.ends if end.key == key]}"
        edit.assert_keeps_disks(host, key, machine, where)
    failed = sum(end.how == TOLD for end in met.ends)
    print(
        f"{sweep.name}: {edit.name}: {len(met.ends)} failures, {failed} of which ended the command, "
        f"{len(met.machines)} machines"
    )
    assert failed > 10


def test_a_damaged_disk_is_made_anew_and_no_other(sweep: Sweep) -> None:
    host = sweep.host
    host.restore(sweep.done)
    disks = host.disk_data()
    host.home.lab(LAB).disks.joinpath("hpc-compute-1.qcow2").open("r+").truncate(60)
    changes = {change.resource.id: change for change in host.plan(sweep.lab).changes}
    assert set(changes) == {"volume/hpc-compute-1", "domain/hpc-compute-1"}
    assert "the disk is damaged" in changes["volume/hpc-compute-1"].reason
    sweep.provision()
    after = host.disk_data()
    assert {name for name in disks if disks[name] != after[name]} == {"hpc-compute-1"}
