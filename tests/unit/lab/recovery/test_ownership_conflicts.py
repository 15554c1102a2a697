"""What looks like the lab's, and is not or no longer: copies with its mark, and its own without name or mark."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

import pytest

from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.core.errors import ConflictError, HypervisorError
from emulator.core.ports import DomainState
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.lab.lab_files import LoadedLab
from emulator.operations.destroy import destroy
from emulator.operations.status import lab_status
from emulator.plan.model import Plan
from tests.support.simulated_world import SYSTEM_URI, SimulatedHost, lab_text

NODE = "demo-hpc-compute-1"


@pytest.fixture
def lab(host: SimulatedHost) -> LoadedLab:
    """A finished lab on the host's own libvirt."""
    loaded = host.lab_file(lab_text(hypervisor=SYSTEM_URI))
    host.provision(loaded)
    return loaded


def libvirt(host: SimulatedHost) -> SimulatedHypervisor:
    return host.hypervisor(quiet=True)


def states(host: SimulatedHost) -> dict[str, DomainState]:
    return {info.name: info.state for info in libvirt(host).domains()}


def uuid_of(host: SimulatedHost, name: str) -> UUID:
    info = libvirt(host).domain(name)
    assert info is not None
    return info.uuid


# ---------------------------------------------------------------- copies
@pytest.mark.parametrize("name", [f"{NODE}-clone", "research-vm"])
def test_a_copy_of_a_domain_is_left_alone_and_told_of(host: SimulatedHost, lab: LoadedLab, name: str) -> None:
    libvirt(host).copy_domain(NODE, name, uuid4())
    plan = host.plan(lab)
    assert plan.is_empty and not plan.blockers
    note = f"domain {name} is a copy of this lab's domain/hpc-compute-1 (it has another UUID) and is left alone"
    assert plan.notes == (note,)
    status = lab_status(host.environment(), "demo")
    assert (status.problems, status.notes) == ((), (note,))
    host.provision(lab)
    assert name in states(host)
    gone = host.destroy()
    assert gone.notes == (note,)
    assert {info.name for info in libvirt(host).domains() if info.owner} == {name}


def test_a_copy_in_the_place_of_a_domain_is_named(host: SimulatedHost, lab: LoadedLab) -> None:
    libvirt(host).copy_domain(NODE, "kept", uuid4())
    libvirt(host).delete_domain(NODE)
    libvirt(host).call_domain("kept", NODE)
    (blocker,) = host.plan(lab).blockers
    assert blocker.what == f"a domain {NODE} is there already (a copy of this lab's domain/hpc-compute-1)"
    host.destroy()
    assert NODE in states(host)


def test_a_copy_of_a_network_is_left_alone(host: SimulatedHost, lab: LoadedLab) -> None:
    libvirt(host).copy_network("demo-hpc", "demo-hpc-mine", uuid4(), bridge="virbr-mine")
    plan = host.plan(lab)
    assert plan.is_empty and not plan.blockers
    assert "network demo-hpc-mine is a copy of this lab's network/hpc" in plan.notes[0]
    host.destroy()
    assert "demo-hpc-mine" in {info.name for info in libvirt(host).networks()}


def test_a_copy_that_runs_on_a_node_s_disk_keeps_the_disk(host: SimulatedHost, lab: LoadedLab) -> None:
    libvirt(host).set_state(NODE, DomainState.SHUTOFF)
    libvirt(host).copy_domain(NODE, "research-vm", uuid4())
    libvirt(host).set_state("research-vm", DomainState.RUNNING)
    before = states(host)
    with pytest.raises(ConflictError, match=r"domain research-vm .* runs on the disk .*/hpc-compute-1\.qcow2"):
        host.destroy()
    assert states(host) == before


# ---------------------------------------------------------------- another name
@pytest.mark.parametrize("state", [DomainState.RUNNING, DomainState.SHUTOFF])
def test_a_renamed_domain_is_still_the_lab_s(host: SimulatedHost, lab: LoadedLab, state: DomainState) -> None:
    uuid = uuid_of(host, NODE)
    libvirt(host).set_state(NODE, state)
    libvirt(host).call_domain(NODE, "login")
    (change,) = host.plan(lab).changes
    assert (change.resource.id, change.action.value) == ("domain/hpc-compute-1", "repair")
    assert change.reason.startswith(f"is called login instead of {NODE}")
    status = lab_status(host.environment(), "demo")
    assert {node.name: node.state for node in status.nodes}["hpc-compute-1"] == state.value
    host.provision(lab)
    assert states(host)[NODE] is DomainState.RUNNING and "login" not in states(host)
    assert uuid_of(host, NODE) == uuid
    assert host.plan(lab).is_empty


@pytest.mark.parametrize("lose", [lambda _host: None, lambda host: host.home.lab("demo").journal.unlink()])
def test_destroy_takes_a_renamed_domain_with_it(
    host: SimulatedHost, lab: LoadedLab, lose: Callable[[SimulatedHost], object]
) -> None:
    libvirt(host).call_domain(NODE, "login")
    lose(host)
    host.destroy()
    assert not [info.name for info in libvirt(host).domains() if info.owner]
    assert not host.home.lab("demo").root.exists()


def test_a_stranger_s_domain_of_the_name_is_in_the_way_of_a_renamed_one(host: SimulatedHost, lab: LoadedLab) -> None:
    libvirt(host).call_domain(NODE, "login")
    libvirt(host).seed_foreign_domain(NODE, uuid4())
    (blocker,) = host.plan(lab).blockers
    assert blocker.what == f"a domain {NODE} is there already (not made by hyperscaler)"
    host.destroy()
    assert NODE in states(host) and "login" not in states(host)


def test_a_domain_with_snapshots_keeps_its_other_name(host: SimulatedHost, lab: LoadedLab) -> None:
    """libvirt refuses to rename it; the failure says so, and nothing is lost."""
    libvirt(host).call_domain(NODE, "login")

    def refuse(name: str) -> None:
        if name == "rename_domain":
            raise HypervisorError("cannot rename domain with snapshots", where="domain login")

    host.hook.before = refuse
    with pytest.raises(HypervisorError, match="cannot rename domain with snapshots"):
        host.provision(lab)
    assert "login" in states(host)


def test_a_network_under_another_name_is_named(host: SimulatedHost, lab: LoadedLab) -> None:
    uuid = next(info.uuid for info in libvirt(host).networks() if info.name == "demo-hpc")
    hypervisor = libvirt(host)
    hypervisor.copy_network("demo-hpc", "wires", uuid, bridge="virbr-w")
    hypervisor.delete_network("demo-hpc")
    (blocker,) = host.plan(lab).blockers
    assert blocker.what.startswith("network wires is this lab's own, but is not called demo-hpc")
    host.destroy()
    assert "wires" not in {info.name for info in libvirt(host).networks()}


# ---------------------------------------------------------------- without the mark
def test_destroy_takes_no_disk_from_a_domain_that_lost_its_mark(host: SimulatedHost, lab: LoadedLab) -> None:
    libvirt(host).unmark(NODE)
    before = host.save()
    with pytest.raises(ConflictError, match=f"domain {NODE} has the UUID that the lab gave it") as caught:
        host.destroy()
    assert f"virsh undefine {NODE}" in caught.value.fix
    after = host.save()
    assert {name: after[name] for name in before if name.startswith(("machine/", "home/labs/"))} == {
        name: entry for name, entry in before.items() if name.startswith(("machine/", "home/labs/"))
    }
    libvirt(host).delete_domain(NODE)
    host.destroy()
    assert not host.home.lab("demo").root.exists()


def test_nor_when_the_record_is_lost_too(host: SimulatedHost, lab: LoadedLab) -> None:
    libvirt(host).unmark(NODE)
    host.home.lab("demo").journal.unlink()
    with pytest.raises(ConflictError, match=f"domain {NODE} .* runs on the disk"):
        host.destroy()
    assert (host.home.lab("demo").disks / "hpc-compute-1.qcow2").exists()


def test_a_mark_that_is_lost_after_the_look_keeps_the_disk(host: SimulatedHost, lab: LoadedLab) -> None:
    def confirm(_plan: Plan) -> bool:
        libvirt(host).unmark(NODE)
        return True

    with pytest.raises(ConflictError, match="not the lab's mark in its metadata any more"):
        destroy(host.environment(), "demo", SilentReporter(), StopFlag(), confirm=confirm)
    assert states(host)[NODE] is DomainState.RUNNING
    assert (host.home.lab("demo").disks / "hpc-compute-1.qcow2").exists()


def test_a_node_that_leaves_without_its_mark_keeps_its_disk(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI, compute=2)))
    libvirt(host).unmark("demo-hpc-compute-2")
    with pytest.raises(ConflictError, match="domain demo-hpc-compute-2 has the UUID that the lab gave it"):
        host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI, compute=1)))
    assert (host.home.lab("demo").disks / "hpc-compute-2.qcow2").exists()


def test_destroy_names_a_network_that_lost_its_mark(host: SimulatedHost, lab: LoadedLab) -> None:
    libvirt(host).unmark("demo-hpc")
    with pytest.raises(ConflictError, match="network demo-hpc has the UUID that the lab gave it"):
        host.destroy()
    assert NODE in states(host)


def test_on_the_lab_s_own_hypervisor_the_mark_is_not_needed_for_its_end(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    host.hypervisor(host.home.lab("demo"), quiet=True).unmark(NODE)
    host.destroy()
    assert not host.home.lab("demo").root.exists()
