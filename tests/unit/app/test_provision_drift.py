"""What changes behind the program's back: the plan shows it with its reason, provisioning repairs it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from simulated_world import FIRST, SECOND, SYSTEM_URI, SimulatedHost, gpu_section, lab_text

from emulator.adapters.simulated.gpus import board_at
from emulator.app.files import LoadedLab
from emulator.app.status import lab_status
from emulator.ports import DomainState

Event = Callable[[SimulatedHost], object]


def edit_memory(host: SimulatedHost) -> None:
    file = host.machine / "libvirt.json"
    data = json.loads(file.read_text())
    xml = data["domains"]["demo-hpc-compute-1"]
    data["domains"]["demo-hpc-compute-1"] = xml.replace(">1024</memory>", ">512</memory>")
    file.write_text(json.dumps(data))


def lose_disk(host: SimulatedHost) -> None:
    (host.home.lab("demo").disks / "hpc-compute-1.qcow2").unlink()


def stop_network(host: SimulatedHost) -> None:
    file = host.machine / "libvirt.json"
    file.write_text(file.read_text().replace('"demo-2-hpc", "demo-hpc"', '"demo-2-hpc"'))


DRIFTS: dict[str, tuple[Event, dict[str, tuple[str, str]]]] = {
    "domain deleted": (
        lambda host: host.hypervisor(quiet=True).delete_domain("demo-hpc-compute-1"),
        {"domain/hpc-compute-1": ("create", "missing although it was made; removed outside of hyperscaler")},
    ),
    "domain shut off": (
        lambda host: host.hypervisor(quiet=True).set_state("demo-hpc-compute-1", DomainState.SHUTOFF),
        {"domain/hpc-compute-1": ("repair", "is shutoff")},
    ),
    "domain crashed": (
        lambda host: host.hypervisor(quiet=True).set_state("demo-hpc-controller", DomainState.CRASHED),
        {"domain/hpc-controller": ("repair", "is crashed")},
    ),
    "memory edited": (
        edit_memory,
        {"domain/hpc-compute-1": ("repair", "has 512 MiB of memory instead of 1024")},
    ),
    "network stopped": (stop_network, {"network/hpc": ("repair", "is not active")}),
    "network deleted": (
        lambda host: host.hypervisor(quiet=True).delete_network("demo-hpc"),
        {
            "network/hpc": ("create", "missing although it was made; removed outside of hyperscaler"),
            "domain/hpc-controller": ("replace", "network/hpc is made anew"),
            "domain/hpc-compute-1": ("replace", "network/hpc is made anew"),
        },
    ),
    "disk lost": (
        lose_disk,
        {
            "volume/hpc-compute-1": ("create", "missing although it was made; removed outside of hyperscaler"),
            "domain/hpc-compute-1": ("replace", "volume/hpc-compute-1 is made anew"),
        },
    ),
}


def changes(host: SimulatedHost, lab: LoadedLab) -> dict[str, tuple[str, str]]:
    plan = host.plan(lab)
    assert not plan.blockers, plan.blockers
    return {change.resource.id: (change.action.value, change.reason) for change in plan.changes}


@pytest.mark.parametrize("name", DRIFTS)
def test_drift_is_seen_and_repaired(host: SimulatedHost, name: str) -> None:
    event, expected = DRIFTS[name]
    lab = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(lab)
    event(host)
    assert changes(host, lab) == expected
    made = host.provision(lab)
    assert all(check.ok for check in made.checks)
    assert changes(host, lab) == {}


def test_a_stopped_domain_is_in_the_status(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI)))
    host.hypervisor(quiet=True).set_state("demo-hpc-compute-1", DomainState.SHUTOFF)
    assert "hpc-compute-1 is shutoff" in lab_status(host.world(), "demo").problems


def test_after_a_reboot_of_the_host_everything_comes_back(host: SimulatedHost) -> None:
    lab = host.lab_file(lab_text())
    host.provision(lab)
    host.reboot()
    assert changes(host, lab) == {
        "hypervisor/embedded": ("repair", "does not run"),
        "network/hpc": ("repair", "its hypervisor does not run"),
        "domain/hpc-controller": ("repair", "its hypervisor does not run"),
        "domain/hpc-compute-1": ("repair", "its hypervisor does not run"),
    }
    made = host.provision(lab)
    assert all(check.ok for check in made.checks)
    assert not any(made.changed.values()), "the guests kept their disks"
    assert changes(host, lab) == {}


# ---------------------------------------------------------------- boards
def gpu_lab(host: SimulatedHost) -> LoadedLab:
    return host.lab_file(lab_text(hypervisor=SYSTEM_URI, extra=gpu_section()))


def without_vgpus(host: SimulatedHost) -> None:
    with host.gpus().store.change() as state:
        board_at(state, SECOND).vgpus.clear()


def without_slices(host: SimulatedHost) -> None:
    with host.gpus().store.change() as state:
        board_at(state, SECOND).vgpus.clear()
        board_at(state, SECOND).instances.clear()


GPU_DRIFTS: dict[str, tuple[Event, tuple[str, ...]]] = {
    "vgpu removed": (without_vgpus, ("vgpu", "domain")),
    "gpu instance destroyed": (without_slices, ("gpu-instance", "vgpu", "domain")),
    "host rebooted": (lambda host: host.reboot(), ("virtual-functions", "whole-gpu", "gpu-instance", "vgpu", "domain")),
}


@pytest.mark.parametrize("name", GPU_DRIFTS)
def test_drift_of_boards_is_seen_and_repaired(gpu_host: SimulatedHost, name: str) -> None:
    event, kinds = GPU_DRIFTS[name]
    lab = gpu_lab(gpu_host)
    gpu_host.provision(lab)
    event(gpu_host)
    seen = changes(gpu_host, lab)
    assert set(kinds) <= {key.partition("/")[0] for key in seen}, seen
    assert all(reason for _, reason in seen.values())
    gpu_host.provision(lab)
    assert changes(gpu_host, lab) == {}
    boards = {board.pci_address: board for board in gpu_host.gpus().store.look().boards}
    assert boards[FIRST].driver == "vfio-pci"
    assert len(boards[SECOND].instances) == len(boards[SECOND].vgpus) == 1
