"""A lab that runs keeps its disks, whatever meets a second `provision` of it or of an edited file."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from emulator.core.errors import DamagedDiskError, HyperscalerError
from emulator.lab.lab_files import LoadedLab
from tests.support.branches import ENDED, TOLD, meet_faults
from tests.support.simulated_world import LAB
from tests.support.stop_points import Sweep, documented, find_stops

EDITS = {
    "the same file": ("", ""),
    "more memory": ("memory_gb: 1", "memory_gb: 2"),
    "larger disks": ("disk_gb: 4", "disk_gb: 5"),
}


def edited(sweep: Sweep, edit: str) -> LoadedLab:
    old, new = EDITS[edit]
    text = sweep.lab.source.decode()
    assert old in text
    return sweep.host.lab_file(text.replace(old, new))


@pytest.mark.parametrize("edit", EDITS)
def test_no_failing_call_costs_a_disk(sweep: Sweep, edit: str) -> None:
    """Each call fails with each documented error, before and after it has done what it was asked for."""
    host, lab = sweep.host, edited(sweep, edit)
    host.restore(sweep.done)
    disks = host.disk_data()
    assert len(disks) > 1
    stops = find_stops(host, lambda: host.provision(lab))
    assert host.disk_data() == disks

    def faults(number: int, name: str) -> Sequence[HyperscalerError]:
        looked = name.startswith("after") and number > 0 and stops.keys[number] == stops.keys[number - 1]
        # A damaged disk is the one thing that has to be made anew.
        return () if looked else [error for error in documented(name) if not isinstance(error, DamagedDiskError)]

    host.restore(sweep.done)
    met = meet_faults(host, lambda: host.provision(lab), stops, faults)
    for end in met.ends:
        assert end.how in (ENDED, TOLD), f"{edit}: {end}"
    for key, machine in met.machines.items():
        where = f"{edit}: {[end for end in met.ends if end.key == key]}"
        host.restore(machine)
        assert host.disk_data() == disks, where
        host.provision(lab)
        assert host.disk_data() == disks, f"{where}, and provisioned again"
    failed = sum(end.how == TOLD for end in met.ends)
    print(
        f"{sweep.name}: {edit}: {len(met.ends)} failures, {failed} of which ended the command, "
        f"{len(met.machines)} machines"
    )
    assert failed > 10


@pytest.mark.parametrize("edit", EDITS)
def test_no_crash_costs_a_disk(sweep: Sweep, edit: str) -> None:
    host, lab = sweep.host, edited(sweep, edit)
    host.restore(sweep.done)
    disks = host.disk_data()
    stops = find_stops(host, lambda: host.provision(lab))
    for key, machine in stops.states.items():
        host.restore(machine)
        assert host.disk_data() == disks, stops.where(key)
        host.provision(lab)
        assert host.disk_data() == disks, stops.where(key)
        assert host.plan(lab).is_empty, stops.where(key)
    print(f"{sweep.name}: {edit}: {len(stops.names)} stop points, {len(stops.states)} distinct machines")


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
