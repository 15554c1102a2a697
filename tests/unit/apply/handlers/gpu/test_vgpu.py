"""vGPUs over simulated GPUs: made, found again, given back, rebuilt after a reboot."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from emulator.apply.gpu_ownership import vgpu_key
from emulator.core.errors import GpuError
from emulator.gpu.errors import GpuBusyError, GpuNoRoomError
from emulator.gpu.placement.demand import Assignment
from emulator.gpu.ports import VgpuFramework, VgpuRequest
from emulator.plan.gpu_resources import Vgpu
from emulator.plan.model import Action
from tests.support.gpu_lab import (
    FIRST,
    GpuLab,
    gpu_machine,
    sliced,
    vgpu_of,
)

SEVEN = [sliced(f"d{start}", "1g.10gb", start) for start in range(7)]
MIXED = [sliced("a", "3g.40gb", 4), sliced("b", "2g.20gb", 2), sliced("c", "1g.10gb", 1), sliced("d", "1g.10gb", 0)]
WHOLE = [Assignment("w", "gpu-1")]


def test_a_slice_becomes_a_vgpu_and_back(any_lab: GpuLab) -> None:
    blank = any_lab.snapshot()
    wanted = any_lab.wanted(hpc_compute_1=[sliced("a", "3g.40gb", 4)])
    any_lab.apply(wanted)
    handle = any_lab.handle(vgpu_of(wanted).id)
    assert (handle["type_name"], handle["framework"]) == (
        "A100DX-3-40C",
        any_lab.host.pci.framework(FIRST).value,
    )
    assert any_lab.plan(wanted).is_empty
    any_lab.apply([])
    assert any_lab.snapshot() == blank and any_lab.state.is_empty


def test_vgpus_made_side_by_side_take_different_functions(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(**{f"n{index}": [where] for index, where in enumerate(SEVEN)})
    any_lab.apply(wanted)
    parents = {any_lab.handle(item.id)["parent"] for item in wanted if isinstance(item, Vgpu)}
    assert len(parents) == 7
    assert any_lab.plan(wanted).is_empty


def test_mixed_slices_in_any_order_of_completion(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(n1=MIXED[:2], n2=MIXED[2:])
    any_lab.apply(wanted)
    assert any_lab.instances() == [("1g.10gb", 0), ("1g.10gb", 1), ("2g.20gb", 2), ("3g.40gb", 4)]
    assert len(any_lab.vgpus()) == 4


def test_the_uuid_follows_from_lab_and_slice(lab: GpuLab) -> None:
    wanted = lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    assert vgpu_of(wanted).uuid == vgpu_of(lab.wanted(n2=[sliced("z", "1g.10gb", 3)])).uuid
    lab.apply(wanted)
    assert lab.vgpus() == [vgpu_of(wanted).uuid]
    assert UUID(vgpu_of(wanted).uuid).version == 5


def test_a_vgpu_that_an_interrupted_run_made_is_adopted(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    device = vgpu_of(wanted)
    any_lab.apply([item for item in wanted if item is not device])
    any_lab.store.begin("create", device)
    host = any_lab.host.vgpus(any_lab.host.pci.framework(FIRST))
    function = host.parents(FIRST)[0].address
    any_lab.host.ledger.claim(vgpu_key(FIRST, device.uuid, function), "demo")
    host.create(VgpuRequest(function, "A100DX-1-10C", UUID(device.uuid)))  # and here the run died
    (change,) = any_lab.apply(wanted).changes
    assert change.action is Action.ADOPT and len(any_lab.vgpus()) == 1
    assert any_lab.handle(device.id)["parent"] == function


def test_a_claim_without_a_vgpu_does_not_stand_in_the_way(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    device = vgpu_of(wanted)
    any_lab.apply([item for item in wanted if item is not device])
    any_lab.host.ledger.claim(vgpu_key(FIRST, device.uuid, "0000:41:01.7"), "demo")
    any_lab.apply(wanted)
    assert any_lab.host.ledger.owner(vgpu_key(FIRST, device.uuid, "0000:41:01.7")) is None
    any_lab.apply([])
    assert any_lab.host.ledger.read() == {}


def test_a_vgpu_removed_by_hand_is_made_again(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    any_lab.apply(wanted)
    with any_lab.gpu() as gpu:
        gpu.vgpus.clear()
    (change,) = any_lab.apply(wanted).changes
    assert change.action is Action.CREATE and "removed outside of hyperscaler" in change.reason
    with any_lab.gpu() as gpu:
        gpu.vgpus.clear()
    any_lab.apply([])  # what is absent is fine
    assert any_lab.state.is_empty


def test_a_uuid_that_is_taken_is_neither_used_nor_removed(lab: GpuLab) -> None:
    other = lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    lab.apply([*lab.wanted(n1=[sliced("b", "3g.40gb", 4)])[:3], *other[:3]])
    host = lab.host.vgpus(VgpuFramework.MDEV)
    taken = vgpu_of(other).uuid
    host.create(VgpuRequest(host.parents(FIRST)[0].address, "A100DX-3-40C", UUID(taken)))
    (blocker,) = lab.plan(other).blockers
    assert f"UUID {taken} is taken by a vGPU of type A100DX-3-40C" in blocker.what
    lab.handlers["vgpu"].delete(vgpu_of(other), {}, lab.context)
    assert lab.vgpus() == [taken]


def test_without_a_free_slice_the_reason_is_reported(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    device = vgpu_of(wanted)
    any_lab.apply([item for item in wanted if item is not device])
    host = any_lab.host.vgpus(any_lab.host.pci.framework(FIRST))
    foreign = host.parents(FIRST)[2].address
    host.create(VgpuRequest(foreign, "A100DX-1-10C", UUID(int=5)))
    with pytest.raises(GpuNoRoomError, match="every GPU instance of its profile carries a vGPU"):
        any_lab.apply(wanted)
    any_lab.apply([item for item in wanted if item.kind in ("mig-mode", "virtual-functions", "gpu-instance")])
    assert len(any_lab.vgpus()) == 1  # the foreign one


def test_without_functions_the_reason_is_reported(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    any_lab.apply(wanted)
    with any_lab.gpu() as gpu:
        gpu.vgpus.clear()
        gpu.numvfs = 0
    with pytest.raises(GpuError) as caught:
        any_lab.handlers["vgpu"].ensure(vgpu_of(wanted), None, any_lab.context)
    assert "no vGPU framework" in caught.value.what or "no virtual function" in caught.value.what


def test_a_vgpu_of_a_running_guest_stays(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    any_lab.apply(wanted)
    with any_lab.gpu() as gpu:
        gpu.vgpus[0].held = True
    before = any_lab.snapshot()
    with pytest.raises(GpuBusyError):
        any_lab.apply([])
    assert any_lab.snapshot() == before
    assert vgpu_of(wanted).id in any_lab.state.resources


def test_vgpus_are_found_without_a_journal(any_lab: GpuLab) -> None:
    blank = any_lab.snapshot()
    any_lab.apply(any_lab.wanted(n1=MIXED, n2=WHOLE))
    any_lab.journal.unlink()
    any_lab.apply([])
    assert any_lab.snapshot() == blank


@pytest.mark.parametrize("model", ["A100-SXM4-80GB", "h100-pcie-80gb"])
@pytest.mark.parametrize("framework", [VgpuFramework.MDEV, VgpuFramework.VENDOR_VFIO], ids=str)
def test_everything_is_rebuilt_after_a_reboot(tmp_path: Path, model: str, framework: VgpuFramework) -> None:
    with gpu_machine(tmp_path, framework=framework, models=(model, model)) as lab:
        blank = lab.snapshot()
        wanted = lab.wanted(n1=MIXED[:2], n2=MIXED[2:], n3=WHOLE)
        lab.apply(wanted)
        before = lab.snapshot()
        lab.gpus.reboot()
        kinds = [change.resource.kind for change in lab.plan(wanted).changes]
        assert kinds[-1] == "whole-gpu" and kinds.index("virtual-functions") < kinds.index("gpu-instance")
        assert ("mig-mode" in kinds) == model.startswith("h100")
        assert kinds.count("gpu-instance") == kinds.count("vgpu") == 4
        lab.apply(wanted)
        assert lab.snapshot() == before and lab.plan(wanted).is_empty
        lab.apply([])
        assert lab.snapshot() == blank


def test_destroy_after_a_reboot_needs_nothing_to_be_there(any_lab: GpuLab) -> None:
    blank = any_lab.snapshot()
    any_lab.apply(any_lab.wanted(n1=MIXED, n2=WHOLE))
    any_lab.gpus.reboot()
    any_lab.apply([])
    assert any_lab.snapshot() == blank


def test_a_reloaded_driver_is_seen(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(n1=MIXED)
    any_lab.apply(wanted)
    before = any_lab.snapshot()
    any_lab.gpus.reload_driver()
    any_lab.apply(wanted)
    assert any_lab.snapshot() == before


def test_a_gpu_that_disappears_is_an_error_and_keeps_the_record(lab: GpuLab) -> None:
    wanted = lab.wanted(n1=MIXED)
    lab.apply(wanted)
    with lab.gpu() as gpu:
        gpu.lost = True
    with pytest.raises(GpuError, match="lost"):
        lab.plan(wanted)
    with pytest.raises(GpuError):
        lab.apply([])
    assert any(key.startswith("gpu-instance/") for key in lab.state.resources)
