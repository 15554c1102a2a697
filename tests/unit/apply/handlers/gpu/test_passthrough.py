"""Whole GPUs over simulated GPUs: bound to vfio-pci and given back."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.adapters.simulated.nvml.store import SimFunction, SimProcess
from emulator.core.errors import ConflictError, GpuError
from emulator.gpu.errors import GpuBusyError
from emulator.gpu.model import Placement
from emulator.gpu.placement.demand import Assignment
from emulator.plan.model import Action
from tests.support.gpu_lab import (
    SECOND,
    GpuLab,
    gpu_machine,
    sliced,
)

SEVEN = [sliced(f"d{start}", "1g.10gb", start) for start in range(7)]
MIXED = [sliced("a", "3g.40gb", 4), sliced("b", "2g.20gb", 2), sliced("c", "1g.10gb", 1), sliced("d", "1g.10gb", 0)]
WHOLE = [Assignment("w", "gpu-1")]


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
    with pytest.raises(GpuBusyError, match=r"has GPU instances of others: 3g\.40gb at 0"):
        lab.apply(lab.wanted(n1=WHOLE))
    assert lab.instances(SECOND) == [("3g.40gb", 0)] and lab.host.ledger.read() == {}


def test_a_group_with_a_device_of_the_host_is_refused(lab: GpuLab) -> None:
    with lab.gpus.store.change() as state:
        group = next(item.group for item in state.gpus if item.pci_address == SECOND)
        state.functions.append(SimFunction("0000:43:00.0", "8086", "1533", "020000", group, "igb", net="eth0"))
    before = lab.snapshot()
    with pytest.raises(GpuError, match="also contains a network interface of the host"):
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
