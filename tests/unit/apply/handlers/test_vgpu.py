"""vGPUs and whole GPUs, over simulated GPUs: made, found again, given back, rebuilt after a reboot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

from emulator.adapters.simulated.nvml.store import SimFunction, SimProcess
from emulator.apply.gpu_ownership import vgpu_key
from emulator.apply.handlers.vgpu import hostdevs_of
from emulator.core.errors import ConflictError, GpuError
from emulator.core.ports import Hostdev, HostdevKind
from emulator.gpu.errors import GpuBusyError, GpuNoRoomError
from emulator.gpu.model import Placement
from emulator.gpu.placement.demand import Assignment
from emulator.gpu.ports import VgpuFramework, VgpuRequest
from emulator.plan.gpu_resources import Vgpu
from emulator.plan.model import Action
from emulator.plan.resources import Resource
from tests.support.gpu_lab import FIRST, SECOND, GpuLab, gpu_machine, sliced

SEVEN = [sliced(f"d{start}", "1g.10gb", start) for start in range(7)]
MIXED = [sliced("a", "3g.40gb", 4), sliced("b", "2g.20gb", 2), sliced("c", "1g.10gb", 1), sliced("d", "1g.10gb", 0)]
WHOLE = [Assignment("w", "gpu-1")]


def vgpu_of(lab: GpuLab, wanted: Sequence[Resource]) -> Vgpu:
    return next(item for item in wanted if isinstance(item, Vgpu))


# ---------------------------------------------------------------- vGPUs
def test_a_slice_becomes_a_vgpu_and_back(any_lab: GpuLab) -> None:
    blank = any_lab.snapshot()
    wanted = any_lab.wanted(hpc_compute_1=[sliced("a", "3g.40gb", 4)])
    any_lab.apply(wanted)
    handle = any_lab.handle(vgpu_of(any_lab, wanted).id)
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
    assert vgpu_of(lab, wanted).uuid == vgpu_of(lab, lab.wanted(n2=[sliced("z", "1g.10gb", 3)])).uuid
    lab.apply(wanted)
    assert lab.vgpus() == [vgpu_of(lab, wanted).uuid]
    assert UUID(vgpu_of(lab, wanted).uuid).version == 5


def test_a_vgpu_that_an_interrupted_run_made_is_adopted(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    device = vgpu_of(any_lab, wanted)
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
    device = vgpu_of(any_lab, wanted)
    any_lab.apply([item for item in wanted if item is not device])
    any_lab.host.ledger.claim(vgpu_key(FIRST, device.uuid, "0000:41:01.7"), "demo")
    any_lab.apply(wanted)
    assert any_lab.host.ledger.owner(vgpu_key(FIRST, device.uuid, "0000:41:01.7")) is None
    any_lab.apply([])
    assert any_lab.host.ledger.read() == {}


def test_a_vgpu_that_somebody_removed_is_made_again(any_lab: GpuLab) -> None:
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
    taken = vgpu_of(lab, other).uuid
    host.create(VgpuRequest(host.parents(FIRST)[0].address, "A100DX-3-40C", UUID(taken)))
    (blocker,) = lab.plan(other).blockers
    assert f"UUID {taken} is taken by a vGPU of type A100DX-3-40C" in blocker.what
    lab.handlers["vgpu"].delete(vgpu_of(lab, other), {}, lab.context)
    assert lab.vgpus() == [taken]


def test_without_a_free_slice_the_reason_is_told(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    device = vgpu_of(any_lab, wanted)
    any_lab.apply([item for item in wanted if item is not device])
    host = any_lab.host.vgpus(any_lab.host.pci.framework(FIRST))
    foreign = host.parents(FIRST)[2].address
    host.create(VgpuRequest(foreign, "A100DX-1-10C", UUID(int=5)))
    with pytest.raises(GpuNoRoomError, match="every GPU instance of its profile carries a vGPU"):
        any_lab.apply(wanted)
    any_lab.apply([item for item in wanted if item.kind in ("mig-mode", "virtual-functions", "gpu-instance")])
    assert len(any_lab.vgpus()) == 1  # the foreign one


def test_without_functions_the_reason_is_told(any_lab: GpuLab) -> None:
    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    any_lab.apply(wanted)
    with any_lab.gpu() as gpu:
        gpu.vgpus.clear()
        gpu.numvfs = 0
    with pytest.raises(GpuError) as caught:
        any_lab.handlers["vgpu"].ensure(vgpu_of(any_lab, wanted), None, any_lab.context)
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
    assert vgpu_of(any_lab, wanted).id in any_lab.state.resources


def test_vgpus_are_found_without_a_journal(any_lab: GpuLab) -> None:
    blank = any_lab.snapshot()
    any_lab.apply(any_lab.wanted(n1=MIXED, n2=WHOLE))
    any_lab.journal.unlink()
    any_lab.apply([])
    assert any_lab.snapshot() == blank


# ---------------------------------------------------------------- hostdevs
def test_a_real_vgpu_is_a_device_and_a_simulated_one_is_not(any_lab: GpuLab) -> None:
    import dataclasses

    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    any_lab.apply(wanted)
    handle = any_lab.handle(vgpu_of(any_lab, wanted).id)
    real = dataclasses.replace(any_lab.host, real=True)
    assert hostdevs_of(lambda: any_lab.host, handle) == ()
    (device,) = hostdevs_of(lambda: real, handle)
    if handle["framework"] == "mdev":
        assert device == Hostdev(HostdevKind.MDEV, vgpu_of(any_lab, wanted).uuid)
    else:
        assert device == Hostdev(HostdevKind.VFIO_VF, str(handle["parent"]))


def test_a_whole_gpu_is_all_its_functions(lab: GpuLab) -> None:
    import dataclasses

    real = dataclasses.replace(lab.host, real=True)
    assert hostdevs_of(lambda: real, {"endpoints": [SECOND]}) == (Hostdev(HostdevKind.PCI, SECOND),)
    assert hostdevs_of(lambda: real, {"was_enabled": False}) == ()


# ---------------------------------------------------------------- whole GPUs
def test_a_whole_gpu_goes_to_vfio_and_back(lab: GpuLab) -> None:
    blank = lab.snapshot()
    wanted = lab.wanted(n1=WHOLE)
    lab.apply(wanted)
    assert lab.pci(SECOND).driver == "vfio-pci"
    assert lab.handle(wanted[0].id) == {"driver_before": "nvidia", "endpoints": [SECOND]}
    assert lab.plan(wanted).is_empty
    lab.apply([])
    assert lab.snapshot() == blank


def test_a_gpu_with_audio_goes_with_it(tmp_path: Path) -> None:
    with gpu_machine(tmp_path, models=("A100-SXM4-80GB", "GeForce RTX 4090")) as lab:
        blank = lab.snapshot()
        wanted = lab.wanted(n1=WHOLE)
        lab.apply(wanted)
        assert lab.handle(wanted[0].id)["endpoints"] == [SECOND, "0000:42:00.1"]
        lab.apply([])
        assert lab.snapshot() == blank


def test_a_gpu_that_had_no_driver_gets_none_back(lab: GpuLab) -> None:
    with lab.gpu(SECOND) as gpu:
        gpu.driver = ""
    blank = lab.snapshot()
    lab.apply(lab.wanted(n1=WHOLE))
    assert lab.pci(SECOND).driver == "vfio-pci"
    lab.apply([])
    assert lab.snapshot() == blank


def test_a_gpu_that_was_on_vfio_before_stays_there(lab: GpuLab) -> None:
    with lab.host.nvml.released():
        lab.host.passthrough.bind(SECOND)
    (change,) = lab.apply(lab.wanted(n1=WHOLE)).changes
    assert change.action is Action.ADOPT
    lab.apply([])
    assert lab.pci(SECOND).driver == "vfio-pci" and lab.host.ledger.read() == {}


def test_a_run_that_was_cut_off_while_binding_still_gives_the_gpu_back(lab: GpuLab) -> None:
    blank = lab.snapshot()
    wanted = lab.wanted(n1=WHOLE)
    lab.store.begin("create", wanted[0])
    lab.host.ledger.claim(SECOND, "demo")
    with lab.host.nvml.released():
        lab.host.passthrough.bind(SECOND)
    (change,) = lab.apply(wanted).changes
    assert change.action is Action.ADOPT
    lab.apply([])
    assert lab.snapshot() == blank


def test_a_gpu_of_another_lab_is_left_alone(lab: GpuLab, tmp_path: Path) -> None:
    other = GpuLab(lab.gpus, lab.host, tmp_path, "other")
    plan = lab.plan(lab.wanted(n1=WHOLE))
    other.apply(other.wanted(n1=WHOLE))
    (blocker,) = lab.plan(lab.wanted(n1=WHOLE)).blockers
    assert blocker.what == "gpu-1 belongs to lab other"
    with pytest.raises(ConflictError, match="belongs to lab other"):
        lab.run(plan)
    lab.apply([])  # the creation was begun; its removal must not take the other lab's GPU
    assert lab.pci(SECOND).driver == "vfio-pci"


def test_a_gpu_cut_by_others_is_not_taken_whole(lab: GpuLab) -> None:
    lab.host.nvml.set_mig_mode(SECOND, enabled=True)
    lab.host.nvml.create_instance(SECOND, 9, Placement(0, 4))
    with pytest.raises(GpuBusyError, match=r"cut into GPU instances of others: 3g\.40gb at 0"):
        lab.apply(lab.wanted(n1=WHOLE))
    assert lab.instances(SECOND) == [("3g.40gb", 0)] and lab.host.ledger.read() == {}


def test_a_group_with_a_device_of_the_host_is_refused(lab: GpuLab) -> None:
    with lab.gpus.store.change() as state:
        group = next(item.group for item in state.gpus if item.pci_address == SECOND)
        state.functions.append(SimFunction("0000:43:00.0", "8086", "1533", "020000", group, "igb", net="eth0"))
    before = lab.snapshot()
    with pytest.raises(GpuError, match="also holds a network interface of the host"):
        lab.apply(lab.wanted(n1=WHOLE))
    assert lab.snapshot() == before


def test_a_gpu_with_a_process_on_it_is_refused(lab: GpuLab) -> None:
    with lab.gpu(SECOND) as gpu:
        gpu.processes.append(SimProcess(55, "Xorg", client=True))
    before = lab.snapshot()
    with pytest.raises(GpuBusyError, match=r"Xorg \(pid 55\)"):
        lab.apply(lab.wanted(n1=WHOLE))
    assert lab.snapshot() == before


def test_a_gpu_in_a_running_guest_stays_there(lab: GpuLab) -> None:
    lab.apply(lab.wanted(n1=WHOLE))
    with lab.gpu(SECOND) as gpu:
        gpu.held = True
    with pytest.raises(GpuBusyError):
        lab.apply([])
    assert lab.pci(SECOND).driver == "vfio-pci"


def test_from_slices_to_a_whole_gpu_and_back(lab: GpuLab) -> None:
    blank = lab.snapshot()
    slices = lab.wanted(n1=[sliced("a", "3g.40gb", 4, "gpu-1"), sliced("b", "1g.10gb", 0, "gpu-1")])
    lab.apply(slices)
    lab.apply(lab.wanted(n1=WHOLE))
    assert lab.pci(SECOND).driver == "vfio-pci"
    lab.apply(slices)
    assert lab.instances(SECOND) == [("1g.10gb", 0), ("3g.40gb", 4)] and len(lab.vgpus()) == 2
    lab.apply([])
    assert lab.snapshot() == blank


def test_a_gpu_that_is_out_whole_with_another_lab_is_not_cut(lab: GpuLab, tmp_path: Path) -> None:
    other = GpuLab(lab.gpus, lab.host, tmp_path, "other")
    other.apply(other.wanted(n1=WHOLE))
    slices = lab.wanted(n1=[sliced("a", "3g.40gb", 4, "gpu-1")])
    (blocker,) = lab.plan(slices).blockers
    assert blocker.what == "gpu-1 belongs to lab other"
    other.apply([])
    with lab.host.nvml.released():
        lab.host.passthrough.bind(SECOND)
    (blocker,) = lab.plan(slices).blockers
    assert blocker.what == "gpu-1 is bound to vfio-pci, and not by hyperscaler"


# ---------------------------------------------------------------- reboot
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
