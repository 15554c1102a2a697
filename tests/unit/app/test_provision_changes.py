"""An edited file: the plan is exactly the difference, and after it there is none."""

from __future__ import annotations

import pytest
from simulated_world import SYSTEM_URI, SimulatedHost, lab_text

from emulator.errors import ConflictError
from emulator.plan.model import Plan


def told(plan: Plan) -> set[tuple[str, str]]:
    return {(change.action.value, change.resource.id) for change in plan.changes}


OTHER_SUBNET = "networks: {hpc_network: {subnet: 192.168.140.0/24}}"
EDITS = {
    "scale out": (
        {},
        {"compute": 2},
        {
            ("update", "network/hpc"),
            ("create", "volume/hpc-compute-2"),
            ("create", "domain/hpc-compute-2"),
        },
    ),
    "scale in": (
        {"compute": 2},
        {},
        {
            ("update", "network/hpc"),
            ("delete", "volume/hpc-compute-2"),
            ("delete", "domain/hpc-compute-2"),
        },
    ),
    "more memory": ({}, {"memory": 2}, {("update", "domain/hpc-compute-1")}),
    "bigger disk": ({}, {"disk": 6}, {("update", "volume/hpc-compute-1"), ("repair", "domain/hpc-compute-1")}),
    "another subnet": (
        {},
        {"extra": OTHER_SUBNET},
        {
            ("replace", "network/hpc"),
            ("replace", "domain/hpc-controller"),
            ("replace", "domain/hpc-compute-1"),
        },
    ),
}


@pytest.mark.parametrize("hypervisor", ["embedded", SYSTEM_URI])
@pytest.mark.parametrize("name", EDITS)
def test_the_plan_is_the_difference(host: SimulatedHost, name: str, hypervisor: str) -> None:
    before, after, expected = EDITS[name]
    host.provision(host.lab_file(lab_text(hypervisor=hypervisor, **before)))
    edited = host.lab_file(lab_text(hypervisor=hypervisor, **after))
    assert told(host.plan(edited)) == expected
    made = host.provision(edited)
    assert all(check.ok for check in made.checks) and len(made.checks) == len(edited.spec.nodes)
    assert host.plan(edited).is_empty
    assert not any(host.provision(edited).changed.values())


def test_a_lab_that_was_edited_is_destroyed_whole(host: SimulatedHost) -> None:
    before = host.save()
    host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI, compute=2)))
    host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI, extra=OTHER_SUBNET)))
    host.destroy()
    kept = {"home/locks", "home/images"}
    left = {name for name in host.save() if not any(name.startswith(top) for top in kept)}
    assert left == set(before) | ({"machine/configured.json"} & left)


def test_a_disk_does_not_shrink(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text(disk=6)))
    with pytest.raises(ConflictError, match="would shrink from 6 GiB to 4 GiB"):
        host.provision(host.lab_file(lab_text(disk=4)))
