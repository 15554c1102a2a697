"""GPU instances over simulated GPUs."""

from __future__ import annotations

import pytest

from emulator.adapters.simulated.nvml.store import SimProcess
from emulator.apply.gpu_ownership import slice_key
from emulator.core.errors import ConflictError
from emulator.gpu.errors import GpuBusyError, GpuNotSupportedError
from emulator.gpu.model import Placement
from emulator.plan.model import Action, Presence
from tests.support.gpu_lab import (
    FIRST,
    FUNCTIONS,
    MODE,
    GpuLab,
    gpu_instance_at,
    sliced,
)


def test_a_slice_is_where_it_was_asked_for(lab: GpuLab) -> None:
    wanted = [MODE, FUNCTIONS, gpu_instance_at("3g.40gb", 4, 4), gpu_instance_at("1g.10gb", 2, 1)]
    lab.apply(wanted)
    assert lab.instances() == [("1g.10gb", 2), ("3g.40gb", 4)]
    assert lab.host.ledger.owner(slice_key(FIRST, "3g.40gb", 4)) == "demo"
    assert lab.plan(wanted).is_empty
    lab.apply(wanted[:3])
    assert lab.instances() == [("3g.40gb", 4)]
    lab.apply([])
    assert lab.host.ledger.read() == {}


@pytest.mark.parametrize("owner", [None, "other"])
def test_a_foreign_slice_blocks_and_its_owner_is_named(lab: GpuLab, owner: str | None) -> None:
    lab.host.nvml.set_mig_mode(FIRST, enabled=True)
    with lab.host.nvml.released():
        lab.host.sriov.enable(FIRST)
    lab.host.nvml.create_instance(FIRST, 14, Placement(2, 2))
    if owner:
        lab.host.ledger.claim(slice_key(FIRST, "2g.20gb", 2), owner)
    for wanted in (gpu_instance_at("1g.10gb", 3, 1), gpu_instance_at("2g.20gb", 2, 2)):
        (blocker,) = lab.plan([MODE, FUNCTIONS, wanted]).blockers
        whose = "of lab other" if owner else "that hyperscaler did not make"
        assert blocker.what == f"2g.20gb at slice 2 of gpu-0, {whose}, is there"
    lab.apply([MODE, FUNCTIONS, gpu_instance_at("1g.10gb", 4, 1)])
    lab.apply([])
    assert lab.instances() == [("2g.20gb", 2)]


def test_a_foreign_slice_that_appears_after_the_plan_is_neither_taken_nor_removed(lab: GpuLab) -> None:
    wanted = [MODE, FUNCTIONS, gpu_instance_at("1g.10gb", 0, 1)]
    plan = lab.plan(wanted)
    lab.apply(wanted[:2])
    lab.host.nvml.create_instance(FIRST, 19, Placement(0, 1))
    with pytest.raises(GpuBusyError, match="is not this lab's"):
        lab.run(plan)
    lab.apply([])  # the journal holds a creation that was begun: it must not lead to a removal
    assert lab.instances() == [("1g.10gb", 0)]


def test_a_slice_claimed_by_another_lab_survives_our_destroy(lab: GpuLab) -> None:
    lab.apply([MODE, FUNCTIONS])
    wanted = gpu_instance_at("1g.10gb", 0, 1)
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
    assert {change.reason for change in plan.changes} == {"belongs to the lab, but is not on record"}
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


def test_a_profile_that_the_gpu_lacks_is_reported_with_the_ones_that_it_has(lab: GpuLab) -> None:
    with pytest.raises(GpuNotSupportedError, match=r"gpu-0 offers no profile 1g\.5gb") as caught:
        lab.apply([MODE, FUNCTIONS, gpu_instance_at("1g.5gb", 0, 1)])
    assert "1g.10gb" in caught.value.fix
    assert lab.host.ledger.read() == {}


def test_a_busy_slice_is_kept_on_record(lab: GpuLab) -> None:
    wanted = [MODE, FUNCTIONS, gpu_instance_at("1g.10gb", 0, 1)]
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
    lab.apply([MODE, FUNCTIONS, gpu_instance_at("3g.40gb", 0, 4), gpu_instance_at("1g.10gb", 5, 1)])
    kept = lab.handle(gpu_instance_at("1g.10gb", 5, 1).id)
    plan = lab.apply([MODE, FUNCTIONS, gpu_instance_at("4g.40gb", 0, 4), gpu_instance_at("1g.10gb", 5, 1)])
    assert [change.action for change in plan.changes] == [Action.DELETE, Action.CREATE]
    assert lab.instances() == [("4g.40gb", 0), ("1g.10gb", 5)]
    assert lab.handle(gpu_instance_at("1g.10gb", 5, 1).id) == kept


def test_nothing_is_seen_on_a_gpu_without_mig_mode(lab: GpuLab) -> None:
    assert lab.handlers["gpu-instance"].observe(gpu_instance_at("1g.10gb", 0, 1), None).presence is Presence.ABSENT
