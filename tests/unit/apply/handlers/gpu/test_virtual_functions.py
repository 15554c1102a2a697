"""Virtual functions over simulated GPUs."""

from __future__ import annotations

import pytest

from emulator.core.ids import resource_uuid
from emulator.gpu.errors import GpuBusyError
from emulator.gpu.model import Placement
from emulator.gpu.ports import VgpuRequest
from tests.support.gpu_lab import (
    FIRST,
    FUNCTIONS,
    MODE,
    OFF,
    ON,
    GpuLab,
)


def test_functions_come_and_go_with_the_lab(lab: GpuLab) -> None:
    lab.apply([MODE, FUNCTIONS])
    assert len(lab.pci(FIRST).virtfns) == 16
    assert lab.handle(FUNCTIONS.id) == {"were_enabled": False}
    assert lab.plan([MODE, FUNCTIONS]).is_empty
    lab.apply([])
    assert lab.pci(FIRST).virtfns == () and lab.mode() == OFF


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
    assert lab.mode() == ON  # the driver refuses to leave it; the functions are not ours to disable
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
