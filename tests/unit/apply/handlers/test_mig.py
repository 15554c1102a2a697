"""MIG mode, virtual functions and GPU instances, over simulated GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.adapters.simulated.nvml.store import SimProcess
from emulator.apply.gpu_ownership import mode_key, slice_key
from emulator.core.errors import ConflictError, StateError
from emulator.core.ids import resource_uuid
from emulator.gpu.errors import GpuBusyError, GpuNotSupportedError, GpuResetRequiredError
from emulator.gpu.model import Placement
from emulator.gpu.ports import MigModeState, VgpuRequest
from emulator.plan.gpu_resources import GpuInstance, MigMode, VirtualFunctions
from emulator.plan.model import Action, Presence
from tests.support.gpu_lab import FIRST, GpuLab, gpu_machine, sliced

MODE = MigMode(name=FIRST, device="gpu-0", pci_address=FIRST)
FUNCTIONS = VirtualFunctions(name=FIRST, needs=(MODE.id,), device="gpu-0", pci_address=FIRST)


def slot(profile: str, start: int, size: int) -> GpuInstance:
    return GpuInstance(
        name=f"{FIRST}-{profile}-at-{start}",
        needs=(MODE.id, FUNCTIONS.id),
        device="gpu-0",
        pci_address=FIRST,
        profile=profile,
        start=start,
        size=size,
    )


def mode(lab: GpuLab) -> MigModeState:
    found = lab.host.nvml.mig_mode(FIRST)
    assert found is not None
    return found


ON, OFF = MigModeState(True, True), MigModeState(False, False)


# ---------------------------------------------------------------- MIG mode
def test_mig_mode_is_switched_on_and_off_again(lab: GpuLab) -> None:
    lab.apply([MODE])
    assert mode(lab) == ON and lab.handle(MODE.id) == {"was_enabled": False}
    assert lab.plan([MODE]).is_empty
    lab.apply([])
    assert mode(lab) == OFF and lab.host.ledger.read() == {}


def test_mig_mode_that_was_on_stays_on(lab: GpuLab) -> None:
    lab.host.nvml.set_mig_mode(FIRST, enabled=True)
    (change,) = lab.apply([MODE]).changes
    assert change.action is Action.ADOPT
    lab.apply([])
    assert mode(lab) == ON


def test_a_run_that_was_cut_off_does_not_forget_that_mig_was_off(lab: GpuLab) -> None:
    lab.store.begin("create", MODE)
    lab.host.ledger.claim(mode_key(FIRST), "demo")
    lab.host.nvml.set_mig_mode(FIRST, enabled=True)  # and here the run died
    (change,) = lab.apply([MODE]).changes
    assert change.action is Action.ADOPT
    lab.apply([])
    assert mode(lab) == OFF


@pytest.mark.parametrize("process", [SimProcess(900, "nvidia-persistenced", client=True), SimProcess(7, "python3")])
def test_who_holds_the_gpu_is_named_and_nothing_is_left_pending(lab: GpuLab, process: SimProcess) -> None:
    with lab.gpu() as gpu:
        gpu.processes.append(process)
    with pytest.raises(GpuBusyError, match=rf"held by {process.name} \(pid {process.pid}\); the mode is as it was"):
        lab.apply([MODE])
    assert mode(lab) == OFF and lab.host.ledger.read() == {}
    with lab.gpu() as gpu:
        gpu.processes.clear()
    lab.apply([MODE])
    assert mode(lab) == ON


def test_a_gpu_that_only_a_reset_changes_is_told_with_the_commands(
    lab: GpuLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emulator.gpu.ports import MigActivation

    real = lab.host.nvml.set_mig_mode

    def blocked(address: str, *, enabled: bool) -> MigActivation:
        with lab.gpu() as gpu:
            gpu.pending = enabled
        return MigActivation.RESET_REQUIRED if enabled else real(address, enabled=enabled)

    monkeypatch.setattr(lab.host.nvml, "set_mig_mode", blocked)
    with pytest.raises(GpuResetRequiredError) as caught:
        lab.apply([MODE])
    assert "-mig 1" in caught.value.fix and "--gpu-reset" in caught.value.fix
    assert mode(lab) == OFF


def test_a_switch_that_was_pending_before_is_left_pending(lab: GpuLab) -> None:
    with lab.gpu() as gpu:
        gpu.processes.append(SimProcess(900, "dcgm", client=True))
    lab.host.nvml.set_mig_mode(FIRST, enabled=True)
    (change,) = lab.plan([MODE]).changes
    assert (change.action, change.reason) == (Action.CREATE, "waits for a reset of the GPU")
    with pytest.raises(GpuBusyError, match="still waits for a reset, as before"):
        lab.run(lab.plan([MODE]))
    assert mode(lab) == MigModeState(current=False, pending=True)


def test_mode_off_that_somebody_asked_for_is_called_back(lab: GpuLab) -> None:
    lab.apply([MODE])
    with lab.gpu() as gpu:
        gpu.pending = False
    (change,) = lab.apply([MODE]).changes
    assert change.action is Action.REPAIR
    assert mode(lab) == ON


def test_a_gpu_without_mig_blocks_the_plan(tmp_path: Path) -> None:
    with gpu_machine(tmp_path, models=("GeForce RTX 4090",)) as lab:
        (blocker,) = lab.plan([MODE]).blockers
        assert blocker.what == "gpu-0 has no MIG"
        with pytest.raises(GpuNotSupportedError):
            lab.handlers["mig-mode"].ensure(MODE, None, lab.context)


def test_mig_mode_stays_on_for_slices_of_others(lab: GpuLab) -> None:
    lab.apply([MODE])
    lab.host.nvml.create_instance(FIRST, 19, Placement(0, 1))
    lab.apply([])
    assert mode(lab) == ON and lab.instances() == [("1g.10gb", 0)]


def test_the_last_lab_on_a_gpu_gives_it_back(lab: GpuLab, tmp_path: Path) -> None:
    other = GpuLab(lab.gpus, lab.host, tmp_path, "other")
    blank = lab.snapshot()
    lab.apply(lab.wanted(node=[sliced("a", "1g.10gb", 0)]))
    other.apply(other.wanted(node=[sliced("b", "1g.10gb", 1)]))
    lab.apply([])
    assert other.plan(other.wanted(node=[sliced("b", "1g.10gb", 1)])).is_empty
    assert lab.instances() == [("1g.10gb", 1)]
    other.apply([])
    assert lab.snapshot() == blank


# ---------------------------------------------------------------- virtual functions
def test_functions_come_and_go_with_the_lab(lab: GpuLab) -> None:
    lab.apply([MODE, FUNCTIONS])
    assert len(lab.pci(FIRST).virtfns) == 16
    assert lab.handle(FUNCTIONS.id) == {"were_enabled": False}
    assert lab.plan([MODE, FUNCTIONS]).is_empty
    lab.apply([])
    assert lab.pci(FIRST).virtfns == () and mode(lab) == OFF


def test_functions_that_were_on_stay_on(lab: GpuLab) -> None:
    lab.host.nvml.set_mig_mode(FIRST, enabled=True)
    with lab.host.nvml.released():
        lab.host.sriov.enable(FIRST)
    lab.apply([MODE, FUNCTIONS])
    lab.apply([])
    assert len(lab.pci(FIRST).virtfns) == 16


def test_mode_stays_on_below_functions_of_others(lab: GpuLab) -> None:
    with lab.host.nvml.released():
        lab.host.sriov.enable(FIRST)
    lab.apply([MODE, FUNCTIONS])
    lab.apply([])
    assert mode(lab) == ON  # the driver refuses to leave it; the functions are not ours to disable
    assert len(lab.pci(FIRST).virtfns) == 16


def test_enabling_functions_refuses_to_erase_slices_of_others(lab: GpuLab) -> None:
    lab.host.nvml.set_mig_mode(FIRST, enabled=True)
    lab.host.nvml.create_instance(FIRST, 9, Placement(4, 4))
    with pytest.raises(GpuBusyError, match=r"would erase GPU instances that are not this lab's: 3g\.40gb at 4"):
        lab.apply([MODE, FUNCTIONS])
    assert lab.instances() == [("3g.40gb", 4)]
    assert lab.host.ledger.read() == {}


def test_functions_stay_below_vgpus_of_others(lab: GpuLab) -> None:
    lab.apply([MODE, FUNCTIONS])
    lab.host.nvml.create_instance(FIRST, 19, Placement(0, 1))
    host = lab.host.vgpus(lab.host.pci.framework(FIRST))
    foreign = host.create(
        VgpuRequest(host.parents(FIRST)[0].address, "A100DX-1-10C", resource_uuid("somebody", "else"))
    )
    lab.apply([])
    assert host.devices() == (foreign,)
    assert len(lab.pci(FIRST).virtfns) == 16


def test_functions_that_do_not_appear_leave_no_claim(lab: GpuLab) -> None:
    with lab.gpus.store.change() as state:
        state.faults.sriov_silent = True
    blank = lab.snapshot()
    with pytest.raises(Exception, match="no virtual function appeared"):
        lab.apply([MODE, FUNCTIONS])
    assert lab.snapshot() == blank


# ---------------------------------------------------------------- GPU instances
def test_a_slice_is_where_it_was_asked_for(lab: GpuLab) -> None:
    wanted = [MODE, FUNCTIONS, slot("3g.40gb", 4, 4), slot("1g.10gb", 2, 1)]
    lab.apply(wanted)
    assert lab.instances() == [("1g.10gb", 2), ("3g.40gb", 4)]
    assert lab.host.ledger.owner(slice_key(FIRST, "3g.40gb", 4)) == "demo"
    assert lab.plan(wanted).is_empty
    lab.apply(wanted[:3])
    assert lab.instances() == [("3g.40gb", 4)]
    lab.apply([])
    assert lab.host.ledger.read() == {}


@pytest.mark.parametrize("owner", [None, "other"])
def test_a_slice_of_somebody_else_blocks_and_its_owner_is_named(lab: GpuLab, owner: str | None) -> None:
    lab.host.nvml.set_mig_mode(FIRST, enabled=True)
    with lab.host.nvml.released():
        lab.host.sriov.enable(FIRST)
    lab.host.nvml.create_instance(FIRST, 14, Placement(2, 2))
    if owner:
        lab.host.ledger.claim(slice_key(FIRST, "2g.20gb", 2), owner)
    for wanted in (slot("1g.10gb", 3, 1), slot("2g.20gb", 2, 2)):
        (blocker,) = lab.plan([MODE, FUNCTIONS, wanted]).blockers
        whose = "of lab other" if owner else "that hyperscaler did not make"
        assert blocker.what == f"2g.20gb at slice 2 of gpu-0, {whose}, is there"
    lab.apply([MODE, FUNCTIONS, slot("1g.10gb", 4, 1)])
    lab.apply([])
    assert lab.instances() == [("2g.20gb", 2)]


def test_a_foreign_slice_that_appears_after_the_plan_is_neither_taken_nor_removed(lab: GpuLab) -> None:
    wanted = [MODE, FUNCTIONS, slot("1g.10gb", 0, 1)]
    plan = lab.plan(wanted)
    lab.apply(wanted[:2])
    lab.host.nvml.create_instance(FIRST, 19, Placement(0, 1))
    with pytest.raises(GpuBusyError, match="is not this lab's"):
        lab.run(plan)
    lab.apply([])  # the journal holds a creation that was begun: it must not lead to a removal
    assert lab.instances() == [("1g.10gb", 0)]


def test_a_slice_claimed_by_another_lab_survives_our_destroy(lab: GpuLab) -> None:
    lab.apply([MODE, FUNCTIONS])
    wanted = slot("1g.10gb", 0, 1)
    plan = lab.plan([MODE, FUNCTIONS, wanted])
    lab.host.ledger.claim(slice_key(FIRST, "1g.10gb", 0), "other")
    with pytest.raises(ConflictError, match="belongs to lab other"):
        lab.run(plan)
    lab.host.nvml.create_instance(FIRST, 19, Placement(0, 1))
    lab.apply([])
    assert lab.instances() == [("1g.10gb", 0)]
    assert lab.host.ledger.owner(slice_key(FIRST, "1g.10gb", 0)) == "other"


def test_a_slice_is_found_by_the_ledger_without_a_journal(lab: GpuLab) -> None:
    blank = lab.snapshot()
    lab.apply(lab.wanted(node=[sliced("a", "2g.20gb", 2), sliced("b", "1g.10gb", 0)]))
    lab.journal.unlink()
    plan = lab.plan([])
    assert {change.reason for change in plan.changes} == {"belongs to the lab, but is in no record"}
    lab.run(plan)
    assert lab.snapshot() == blank


def test_a_lost_journal_is_written_anew_by_provision(lab: GpuLab) -> None:
    wanted = lab.wanted(node=[sliced("a", "2g.20gb", 2)])
    lab.apply(wanted)
    before = lab.snapshot()
    lab.journal.unlink()
    plan = lab.apply(wanted)
    assert {change.action for change in plan.changes} == {Action.ADOPT}
    assert lab.snapshot() == before and lab.plan(wanted).is_empty


def test_a_claim_without_a_slice_goes_with_the_lab(lab: GpuLab) -> None:
    lab.apply([MODE, FUNCTIONS])
    lab.host.ledger.claim(slice_key(FIRST, "1g.10gb", 0), "demo")  # the run died between claim and slice
    lab.apply([])
    assert lab.host.ledger.read() == {}


def test_a_profile_that_the_gpu_lacks_is_told_with_those_that_it_has(lab: GpuLab) -> None:
    with pytest.raises(GpuNotSupportedError, match=r"gpu-0 offers no profile 1g\.5gb") as caught:
        lab.apply([MODE, FUNCTIONS, slot("1g.5gb", 0, 1)])
    assert "1g.10gb" in caught.value.fix
    assert lab.host.ledger.read() == {}


def test_a_busy_slice_is_kept_on_record(lab: GpuLab) -> None:
    wanted = [MODE, FUNCTIONS, slot("1g.10gb", 0, 1)]
    lab.apply(wanted)
    number = lab.handle(wanted[2].id)["gpu_instance_id"]
    assert isinstance(number, int)
    with lab.gpu() as gpu:
        gpu.processes.append(SimProcess(70, "train.py", gi_id=number))
    with pytest.raises(GpuBusyError, match=r"train\.py \(pid 70\)"):
        lab.apply([])
    assert wanted[2].id in lab.state.resources and lab.instances() == [("1g.10gb", 0)]
    with lab.gpu() as gpu:
        gpu.processes.clear()
    lab.apply([])
    assert lab.state.is_empty


def test_slices_are_swapped_without_touching_the_others(lab: GpuLab) -> None:
    lab.apply([MODE, FUNCTIONS, slot("3g.40gb", 0, 4), slot("1g.10gb", 5, 1)])
    kept = lab.handle(slot("1g.10gb", 5, 1).id)
    plan = lab.apply([MODE, FUNCTIONS, slot("4g.40gb", 0, 4), slot("1g.10gb", 5, 1)])
    assert [change.action for change in plan.changes] == [Action.DELETE, Action.CREATE]
    assert lab.instances() == [("4g.40gb", 0), ("1g.10gb", 5)]
    assert lab.handle(slot("1g.10gb", 5, 1).id) == kept


def test_nothing_is_seen_on_a_gpu_without_mig_mode(lab: GpuLab) -> None:
    assert lab.handlers["gpu-instance"].observe(slot("1g.10gb", 0, 1), None).presence is Presence.ABSENT


# ---------------------------------------------------------------- the ledger
def test_a_damaged_ledger_is_never_overwritten(lab: GpuLab, tmp_path: Path) -> None:
    path = tmp_path / "owners.json"
    for text in ("{", '{"version": 9, "owners": {}}', '{"version": 1, "owners": []}', '{"version": 2, "owners": {}}'):
        path.write_text(text)
        with pytest.raises(StateError) as caught:
            lab.host.ledger.claim("key", "demo")
        assert caught.value.fix and path.read_text() == text


def test_a_claim_is_for_one_lab_and_only_it_can_give_it_back(lab: GpuLab) -> None:
    ledger = lab.host.ledger
    ledger.claim("key", "demo")
    ledger.claim("key", "demo")
    with pytest.raises(ConflictError, match="belongs to lab demo"):
        ledger.claim("key", "other")
    ledger.release("key", "other")
    assert ledger.of("demo") == ("key",)
    ledger.pass_on("key", "demo", "other")
    assert ledger.owner("key") == "other"
