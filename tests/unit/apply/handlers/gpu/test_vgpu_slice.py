"""Each vGPU sits on the slice that was cut for it, whoever else is at work on the GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from emulator.adapters.nvidia.nvml import NvmlGpus
from emulator.adapters.simulated.nvml.store import SimCompute
from emulator.apply.handler import ApplyContext
from emulator.core.errors import GpuError
from emulator.gpu.errors import GpuBusyError, GpuNoRoomError
from emulator.gpu.model import GpuInstance, Placement
from emulator.gpu.placement.demand import Assignment
from emulator.gpu.ports import VgpuFramework
from emulator.plan.gpu_resources import Vgpu
from emulator.plan.resources import Resource
from tests.support.gpu_lab import FIRST, GpuLab, gpu_machine, sliced

SMALL = 19
"""The driver's number of 1g.10gb."""


def at(start: int, name: str = "a") -> list[Assignment]:
    return [sliced(name, "1g.10gb", start)]


def other_lab(lab: GpuLab, directory: Path, name: str = "other") -> GpuLab:
    return GpuLab(lab.gpus, lab.host, directory, name)


def without_vgpus(wanted: Sequence[Resource]) -> list[Resource]:
    return [item for item in wanted if not isinstance(item, Vgpu)]


def places(lab: GpuLab) -> dict[str, int]:
    """Where the vGPUs sit, by their functions."""
    with lab.gpu() as gpu:
        starts = {item.id: item.start for item in gpu.instances}
        return {item.parent: starts[item.gi_id] for item in gpu.vgpus if item.gi_id is not None}


def place_of(lab: GpuLab, wanted: Sequence[Resource]) -> int:
    [vgpu] = [item for item in wanted if isinstance(item, Vgpu)]
    return places(lab)[str(lab.handle(vgpu.id)["parent"])]


def test_a_slice_that_another_run_has_just_cut_is_not_taken(any_lab: GpuLab, tmp_path: Path) -> None:
    blank = any_lab.snapshot()
    other = other_lab(any_lab, tmp_path)
    ours, theirs = any_lab.wanted(n1=at(0)), other.wanted(n1=at(1))
    any_lab.apply(without_vgpus(ours))
    other.apply(theirs)
    assert any_lab.instances() == [("1g.10gb", 0), ("1g.10gb", 1)], "what was in the way is back"
    any_lab.apply(ours)
    assert (place_of(any_lab, ours), place_of(other, theirs)) == (0, 1)
    assert any_lab.plan(ours).is_empty and other.plan(theirs).is_empty
    any_lab.apply([])
    assert any_lab.instances() == [("1g.10gb", 1)]
    other.apply([])
    assert any_lab.snapshot() == blank


def test_what_a_dead_run_of_the_same_lab_has_left_is_not_taken(any_lab: GpuLab) -> None:
    one, both = any_lab.wanted(n1=at(0)), any_lab.wanted(n1=at(0), n2=at(1, "b"))
    any_lab.apply(without_vgpus(one))
    any_lab.apply([item for item in both if "-at-0" not in item.id or not isinstance(item, Vgpu)])
    any_lab.apply(both)
    found = places(any_lab)
    for item in both:
        if isinstance(item, Vgpu):
            assert item.name.endswith(f"-at-{found[str(any_lab.handle(item.id)['parent'])]}")
    any_lab.apply(one)
    assert any_lab.instances() == [("1g.10gb", 0)] and any_lab.plan(one).is_empty


def test_a_vgpu_removed_by_hand_comes_back_to_its_slice(any_lab: GpuLab, tmp_path: Path) -> None:
    """Another lab's vGPU that is made in the meantime does not take its place."""
    other = other_lab(any_lab, tmp_path)
    ours, theirs = any_lab.wanted(n1=at(0)), other.wanted(n1=at(1))
    any_lab.apply(ours)
    with any_lab.gpu() as gpu:
        gpu.vgpus.clear()
    other.apply(theirs)
    any_lab.apply(ours)
    assert (place_of(any_lab, ours), place_of(other, theirs)) == (0, 1)


def test_other_profiles_and_slices_in_use_are_left_alone(
    any_lab: GpuLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, third = other_lab(any_lab, tmp_path), other_lab(any_lab, tmp_path, "third")
    any_lab.apply(any_lab.wanted(n1=at(0)))
    third.apply(without_vgpus(third.wanted(n1=[sliced("a", "2g.20gb", 4)])))
    destroyed: list[tuple[str, int, int]] = []
    real = NvmlGpus.destroy_instance

    def seen(self: NvmlGpus, address: str, profile: int, start: int) -> bool:
        destroyed.append((address, profile, start))
        return real(self, address, profile, start)

    monkeypatch.setattr(NvmlGpus, "destroy_instance", seen)
    other.apply(other.wanted(n1=at(1)))
    assert destroyed == []


@pytest.mark.parametrize("any_lab", [VgpuFramework.MDEV], indirect=True)
def test_a_vgpu_whose_uuid_is_not_known_keeps_its_slice(any_lab: GpuLab, tmp_path: Path) -> None:
    """Older versions named them otherwise; then it is the driver that says no."""
    other = other_lab(any_lab, tmp_path)
    any_lab.apply(any_lab.wanted(n1=at(0)))
    with any_lab.gpu() as gpu:
        gpu.vgpus[0].uuid = "01234567-89ab-cdef-0123-456789abcdef"
        before = (gpu.vgpus[0].gi_id, gpu.instances[0].id)
    for key in [key for key in any_lab.host.ledger.of("demo") if "/vgpu/" in key]:
        any_lab.host.ledger.release(key, "demo")
    theirs = other.wanted(n1=at(1))
    other.apply(theirs)
    assert place_of(other, theirs) == 1
    with any_lab.gpu() as gpu:
        assert (gpu.vgpus[0].gi_id, gpu.instances[0].id) == before


def test_a_slice_that_hyperscaler_did_not_make_is_never_taken_away(any_lab: GpuLab) -> None:
    any_lab.host.nvml.set_mig_mode(FIRST, enabled=True)
    with any_lab.host.nvml.released():
        any_lab.host.sriov.enable(FIRST)
    strangers = any_lab.host.nvml.create_instance(FIRST, SMALL, Placement(6, 1))
    any_lab.apply(any_lab.wanted(n1=at(0)))
    [there] = [item for item in any_lab.host.nvml.instances(FIRST) if item.placement.start == 6]
    assert there == strangers
    any_lab.apply([])
    assert any_lab.instances() == [("1g.10gb", 6)]


def test_what_was_put_aside_comes_back_when_no_vgpu_can_be_made(any_lab: GpuLab, tmp_path: Path) -> None:
    other = other_lab(any_lab, tmp_path)
    any_lab.apply(without_vgpus(any_lab.wanted(n1=at(0))))
    with any_lab.gpus.store.change() as state:
        state.faults.vgpu_errno = 5
    with pytest.raises(Exception, match="vGPU"):
        other.apply(other.wanted(n1=at(1)))
    assert ("1g.10gb", 0) in any_lab.instances()


def test_a_run_that_dies_while_a_slice_is_put_aside(
    any_lab: GpuLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim stays: the lab that it belongs to makes it again, and nobody else takes the place."""
    other = other_lab(any_lab, tmp_path)
    ours, theirs = any_lab.wanted(n1=at(0)), other.wanted(n1=at(1))
    any_lab.apply(without_vgpus(ours))
    plan = other.plan(theirs)

    real = NvmlGpus.create_instance

    def died(self: NvmlGpus, address: str, profile: int, placement: Placement) -> GpuInstance:
        if placement.start == 0:
            raise KeyboardInterrupt
        return real(self, address, profile, placement)

    monkeypatch.setattr(NvmlGpus, "create_instance", died)
    with pytest.raises(KeyboardInterrupt):
        other.run(plan)
    monkeypatch.undo()
    assert any_lab.instances() == [("1g.10gb", 1)]
    unmade = ApplyContext(any_lab.name, lambda _resource: {})
    with pytest.raises(GpuNoRoomError):
        any_lab.handlers["vgpu"].ensure(next(item for item in ours if isinstance(item, Vgpu)), None, unmade)
    any_lab.apply(ours)
    other.apply(theirs)
    assert (place_of(any_lab, ours), place_of(other, theirs)) == (0, 1)


def cut(lab: GpuLab, *starts: int) -> None:
    """Slices that somebody made by hand."""
    lab.host.nvml.set_mig_mode(FIRST, enabled=True)
    with lab.host.nvml.released():
        lab.host.sriov.enable(FIRST)
    for start in starts:
        lab.host.nvml.create_instance(FIRST, SMALL, Placement(start, 1))


def test_labs_next_to_free_foreign_slices_still_go_in_any_order(any_lab: GpuLab, tmp_path: Path) -> None:
    cut(any_lab, 0)
    other = other_lab(any_lab, tmp_path)
    any_lab.apply(any_lab.wanted(n1=at(1)))
    other.apply(other.wanted(n1=at(2)))
    any_lab.apply([])
    assert any_lab.instances() == [("1g.10gb", 0), ("1g.10gb", 2)]
    other.apply([])
    assert any_lab.instances() == [("1g.10gb", 0)]


def test_a_slice_that_cannot_come_back_does_not_keep_the_others(
    any_lab: GpuLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, third = other_lab(any_lab, tmp_path), other_lab(any_lab, tmp_path, "third")
    any_lab.apply(without_vgpus(any_lab.wanted(n1=at(0))))
    third.apply(without_vgpus(third.wanted(n1=at(2))))
    plan = other.plan(theirs := other.wanted(n1=at(1)))
    real = NvmlGpus.create_instance

    def refused(self: NvmlGpus, address: str, profile: int, placement: Placement) -> GpuInstance:
        if placement.start == 0:
            raise GpuError("the driver does not want to")
        return real(self, address, profile, placement)

    monkeypatch.setattr(NvmlGpus, "create_instance", refused)
    with pytest.raises(GpuError, match="does not want to"):
        other.run(plan)
    monkeypatch.undo()
    assert ("1g.10gb", 2) in any_lab.instances()
    for lab, wanted in ((any_lab, any_lab.wanted(n1=at(0))), (third, third.wanted(n1=at(2))), (other, theirs)):
        lab.apply(wanted)
        assert place_of(lab, wanted) == int(wanted[-1].name.rpartition("-")[2])


def test_a_slice_that_went_although_the_driver_reported_a_failure_comes_back(
    any_lab: GpuLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_lab(any_lab, tmp_path)
    any_lab.apply(without_vgpus(any_lab.wanted(n1=at(0))))
    plan = other.plan(other.wanted(n1=at(1)))
    real = NvmlGpus.destroy_instance
    failures = [GpuError("too late")]

    def done_and_failed(self: NvmlGpus, address: str, profile: int, start: int) -> bool:
        done = real(self, address, profile, start)
        if failures:
            raise failures.pop()
        return done

    monkeypatch.setattr(NvmlGpus, "destroy_instance", done_and_failed)
    with pytest.raises(GpuError, match="too late"):
        other.run(plan)
    assert ("1g.10gb", 0) in any_lab.instances()


def test_a_slice_with_compute_instances_of_the_host_is_not_put_aside(any_lab: GpuLab, tmp_path: Path) -> None:
    """Destroying it would take them away."""
    other = other_lab(any_lab, tmp_path)
    any_lab.apply(without_vgpus(any_lab.wanted(n1=at(0))))
    with any_lab.gpu() as gpu:
        gpu.instances[0].compute.append(SimCompute(0, 0, 0, 1))
    other.apply(other.wanted(n1=at(1)))
    with any_lab.gpu() as gpu:
        assert [len(item.compute) for item in gpu.instances] == [1, 0]


def test_the_lab_that_may_be_on_a_slice_is_named(any_lab: GpuLab, tmp_path: Path) -> None:
    other = other_lab(any_lab, tmp_path)
    any_lab.apply(any_lab.wanted(n1=at(0)))
    other.apply(other.wanted(n1=at(1)))
    with any_lab.gpu() as gpu:  # as an older version left it
        first, second = gpu.vgpus
        first.gi_id, second.gi_id = second.gi_id, first.gi_id
    with pytest.raises(GpuBusyError, match="a vGPU of lab other may be on it"):
        any_lab.apply([])
    other.apply([])
    any_lab.apply([])
    assert any_lab.instances() == []


def test_a_vgpu_is_of_the_whole_slice_where_slices_are_shared(tmp_path: Path) -> None:
    """RTX PRO 6000 Blackwell: twelve guests may share its smallest slice, each with 2 GB of it."""
    profile = "1g.24gb+gfx"
    with gpu_machine(tmp_path, framework=VgpuFramework.VENDOR_VFIO, models=("rtx-pro-6000-blackwell-server",)) as lab:
        other = other_lab(lab, tmp_path)
        [offered] = [item for item in lab.host.nvml.profiles(FIRST) if item.name == profile]
        first, second = (offered.placements or ())[:2]
        wanted = [
            made.wanted(n1=[Assignment("a", "gpu-0", profile, place)])
            for made, place in ((lab, first), (other, second))
        ]
        lab.apply(wanted[0])
        other.apply(wanted[1])
        assert (place_of(lab, wanted[0]), place_of(other, wanted[1])) == (first.start, second.start)
        [vgpu] = [item for item in wanted[0] if isinstance(item, Vgpu)]
        assert lab.handle(vgpu.id)["type_name"] == "DC-1-24C"
