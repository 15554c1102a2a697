"""Snapshots of a lab: what comes back, what does not, what is refused, and what is left of one."""

from __future__ import annotations

from typing import Any

import pytest

from emulator.adapters.simulated.saved_states import SimulatedSavedStates
from emulator.core.errors import ConflictError, HypervisorError, StateError, UsageError
from emulator.core.ports import DomainState
from emulator.lab.lab_files import load_recorded_lab
from emulator.operations.snapshots.listing import list_snapshots, show_snapshot
from emulator.operations.status import lab_status
from tests.support.rewinding import NODES, Rewound
from tests.support.simulated_world import LAB, SYSTEM_URI, SimulatedHost, lab_text


@pytest.fixture
def lab(host: SimulatedHost) -> Rewound:
    return Rewound(host)


def test_the_lab_goes_on_at_once_and_comes_back_as_often_as_wished(lab: Rewound) -> None:
    lab.remember("then")
    before = lab.disks()
    made = lab.create()
    assert (made.ram, made.lab, [node.name for node in made.nodes]) == (True, LAB, list(NODES))
    lab.assert_well()
    assert lab.memories() == {node: f"{node} then" for node in NODES}, "the guests went on"
    for _ in range(2):
        lab.remember("later")
        lab.restore()
        lab.assert_well()
        assert lab.memories() == {node: f"{node} then" for node in NODES}
        assert {node: chain[1:] for node, chain in lab.disks().items()} == before, "an empty layer over the frozen disk"


def test_without_memory_the_guests_boot_from_the_disks_of_that_time(lab: Rewound) -> None:
    before = lab.disks()
    made = lab.create(disk_only=True)
    assert not made.ram and lab.memories() == dict.fromkeys(NODES, "")
    lab.assert_well()
    lab.remember("later")
    lab.restore(disk_only=True)
    lab.assert_well()
    assert lab.memories() == dict.fromkeys(NODES, "")
    assert {node: chain[1:] for node, chain in lab.disks().items()} == before
    with pytest.raises(ConflictError, match="made with --disk-only") as caught:
        lab.restore()
    assert caught.value.fix.endswith(f"snapshot restore {LAB} first --disk-only")


def test_snapshots_stand_on_each_other_and_each_can_be_gone_back_to(lab: Rewound) -> None:
    for name in ("one", "two", "three"):
        lab.remember(name)
        lab.create(name)
    for name in ("one", "three", "two"):
        lab.restore(name)
        assert lab.memories() == {node: f"{node} {name}" for node in NODES}
        lab.assert_well()


def test_a_deleted_snapshot_leaves_nothing_that_serves_nobody(lab: Rewound) -> None:
    plain = {node: len(chain) for node, chain in lab.disks().items()}
    for name in ("one", "two"):
        lab.create(name)
    lab.delete("one")
    assert lab.store.names() == ("two",)
    assert lab.store.directory("one").is_dir(), "the disks of the other stand on its layer"
    assert not list(lab.store.directory("one").glob("*.ram"))
    lab.restore("two")
    lab.delete("two")
    assert not lab.store.root.exists()
    assert {node: len(chain) for node, chain in lab.disks().items()} == plain, "the layers were put together"
    assert not any((lab.host.home.lab(LAB).secrets / "snapshots").iterdir()), "no key stays behind"
    lab.assert_well()


def test_layers_of_a_guest_that_is_off_stay_until_it_runs(lab: Rewound) -> None:
    lab.create()
    lab.hypervisor.set_state(f"{LAB}-hpc-compute-1", DomainState.SHUTOFF)
    lab.delete()
    assert lab.store.frozen("first", "hpc-compute-1").is_file()
    assert not lab.store.frozen("first", "hpc-controller").exists()
    with pytest.raises(ConflictError, match="still stand on"):
        lab.create()
    lab.provision()
    assert not lab.store.root.exists(), "they are put together once it runs"
    lab.assert_well()


def test_destroy_takes_the_snapshots_along_and_nothing_foreign(lab: Rewound) -> None:
    lab.create()
    foreign = lab.store.directory("first") / "thesis.pdf"
    foreign.write_text("mine")
    with pytest.raises(ConflictError, match=r"thesis\.pdf"):
        lab.host.destroy()
    foreign.unlink()
    lab.host.destroy()
    assert not lab.host.home.lab(LAB).root.exists()


def test_provision_keeps_the_snapshots_and_the_layers(lab: Rewound) -> None:
    lab.create()
    disks = lab.disks()
    lab.provision()
    assert lab.disks() == disks and lab.store.names() == ("first",)


# ------------------------------------------------------------ refusals
def refused(lab: Rewound, match: str, **options: Any) -> ConflictError:
    memories, disks = lab.memories(), lab.disks()
    with pytest.raises(ConflictError, match=match) as caught:
        lab.restore(**options)
    assert (lab.memories(), lab.disks()) == (memories, disks), "nothing was changed"
    return caught.value


def test_a_changed_lab_is_refused_and_fits_again_when_it_is_changed_back(lab: Rewound) -> None:
    lab.create()
    first, lab.text = lab.text, lab_text(memory=2)
    lab.provision()
    refused(lab, "domain/hpc-compute-1")
    refused(lab, "domain/hpc-compute-1", disk_only=True)
    lab.text = first
    lab.provision()
    lab.restore()


def test_another_file_is_refused(lab: Rewound) -> None:
    lab.create()
    lab.text = f"# a line\n{lab.text}"
    lab.provision()
    refused(lab, "the lab's file has changed since", disk_only=True)


def test_another_machine_takes_the_disks_alone(lab: Rewound, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.create()
    monkeypatch.setattr(SimulatedSavedStates, "qemu", "QEMU of tomorrow")
    error = refused(lab, "saved on another machine .*QEMU 1, TCG.*QEMU of tomorrow")
    assert error.fix.endswith(f"snapshot restore {LAB} first --disk-only")
    lab.restore(disk_only=True)
    lab.assert_well()


def test_devices_of_the_host_refuse_the_memory_and_offer_the_disks(lab: Rewound) -> None:
    lab.create()
    device = (
        '<hostdev mode="subsystem" type="pci" managed="yes"><source><address domain="0x0000" bus="0x41" slot="0x00"'
        ' function="0x0"/></source></hostdev></devices>'
    )
    for live in (False, True):
        lab.hypervisor.edit(f"{LAB}-hpc-compute-1", "</devices>", device, live=live)
    error = refused(lab, "hpc-compute-1 has a device of the host")
    assert "--disk-only" in error.fix
    with pytest.raises(ConflictError, match=r"memory of hpc-compute-1 cannot be saved") as caught:
        lab.create("second")
    assert caught.value.fix == f"hyperscaler snapshot create {LAB} second --disk-only"
    assert lab.store.names() == ("first",) and not lab.store.directory("second").exists()


def test_a_damaged_file_is_noticed_before_anything_is_changed(lab: Rewound) -> None:
    lab.create()
    ram = lab.store.ram("first", "hpc-controller")
    ram.write_bytes(ram.read_bytes()[:-1] + b" ")
    with pytest.raises(StateError, match="saved state of hpc-controller"):
        lab.restore()
    lab.assert_well()
    frozen = lab.store.frozen("first", "hpc-controller")
    content = frozen.read_bytes()
    frozen.chmod(0o600)
    frozen.write_bytes(content + b" ")
    assert show_snapshot(lab.host.environment(), LAB, "first", check=True).whole == {
        "hpc-controller": False,
        "hpc-compute-1": True,
    }
    frozen.unlink()
    with pytest.raises(StateError, match="disk of hpc-controller"):
        lab.restore(disk_only=True)


def test_names_are_checked_before_anything_else(lab: Rewound) -> None:
    for name in ("../x", "A", "", "a.b", "x" * 31):
        for act in (lab.create, lab.restore, lab.delete):
            with pytest.raises(UsageError):
                act(name)
    with pytest.raises(UsageError, match="no snapshot absent") as caught:
        lab.restore("absent")
    assert "there are none" in caught.value.fix
    lab.create()
    with pytest.raises(ConflictError, match="there is a snapshot first already"):
        lab.create()


def test_a_lab_whose_machines_do_not_all_run_is_refused(lab: Rewound) -> None:
    lab.hypervisor.set_state(f"{LAB}-hpc-controller", DomainState.PAUSED)
    with pytest.raises(ConflictError, match="hpc-controller"):
        lab.create()
    assert lab.states()["hpc-controller"] is DomainState.PAUSED


def test_a_hypervisor_that_others_use_is_refused(host: SimulatedHost) -> None:
    shared = Rewound(host, lab_text(hypervisor=SYSTEM_URI))
    with pytest.raises(ConflictError, match="hypervisor of their own"):
        shared.create()


def test_too_little_space_is_told_before_a_guest_stands_still(lab: Rewound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulator.lab.snapshots.store.SnapshotStore.free_bytes", lambda _store: 2 << 30)
    with pytest.raises(ConflictError, match=r"2\.0 GiB free .* may take 3\.0 GiB"):
        lab.create()
    lab.assert_well()


def test_a_guest_that_cannot_be_saved_leaves_the_lab_as_it_was(lab: Rewound) -> None:
    lab.remember("still here")
    disks = lab.disks()
    saves = 0

    def fail(name: str) -> None:
        nonlocal saves
        saves += name == "save_domain"
        if name == "save_domain" and saves == 2:
            raise HypervisorError("No space left on device")

    lab.host.hook.before = fail
    with pytest.raises(HypervisorError, match="No space left"):
        lab.create()
    lab.host.hook.before = lambda _name: None
    lab.assert_well()
    assert lab.memories() == {node: f"{node} still here" for node in NODES}
    assert lab.disks() == disks and not lab.store.root.exists()


# ------------------------------------------------------------ what is told
def test_the_list_tells_the_space_and_what_is_half_done(lab: Rewound) -> None:
    lab.create()
    env = lab.host.environment()
    found = list_snapshots(env, LAB)
    assert [line.name for line in found.snapshots] == ["first"]
    assert found.snapshots[0].space_bytes > 0 and not found.interrupted
    (lab.store.directory("first") / "manifest.json").write_text("{}")
    assert "damaged" in list_snapshots(env, LAB).snapshots[0].problem
    lab.delete()
    assert lab.store.names() == ()


def test_the_file_of_the_lab_is_untouched(lab: Rewound) -> None:
    lab.create()
    lab.restore()
    assert load_recorded_lab(lab.host.home, LAB).source == lab.lab.source
    assert lab_status(lab.host.environment(), LAB).problems == ()


def test_a_link_in_the_place_of_the_directory_is_not_followed(
    lab: Rewound, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    lab.store.root.symlink_to(elsewhere)
    with pytest.raises(StateError):
        lab.create()
    assert list(elsewhere.iterdir()) == []


# ------------------------------------------------------------ pristine
def test_a_verified_lab_keeps_itself_and_a_changed_one_anew(host: SimulatedHost) -> None:
    asks = lab_text().replace("timeouts:", "snapshots: {pristine: true}\ntimeouts:")
    lab = Rewound(host, asks)
    assert lab.store.names() == ("pristine",)
    taken = lab.store.manifest("pristine")
    lab.provision()
    assert lab.store.manifest("pristine") == taken, "nothing has changed"
    lab.text = asks.replace("memory_gb: 1, disk_gb: 4, gpu", "memory_gb: 2, disk_gb: 4, gpu")
    lab.provision()
    assert lab.store.manifest("pristine").resources != taken.resources
    lab.remember("used")
    lab.restore("pristine")
    assert lab.memories() == dict.fromkeys(NODES, "")
    lab.assert_well()
