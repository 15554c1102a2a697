"""MIG mode over simulated GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.adapters.simulated.nvml.store import SimProcess
from emulator.apply.gpu_ownership import mode_key
from emulator.gpu.errors import GpuBusyError, GpuNotSupportedError, GpuResetRequiredError
from emulator.gpu.model import Placement
from emulator.gpu.ports import MigModeState
from emulator.plan.model import Action
from tests.support.gpu_lab import (
    FIRST,
    MODE,
    OFF,
    ON,
    GpuLab,
    gpu_machine,
    sliced,
)


def test_mig_mode_is_switched_on_and_off_again(lab: GpuLab) -> None:
    lab.apply([MODE])
    assert lab.mode() == ON and lab.handle(MODE.id) == {"was_enabled": False}
    assert lab.plan([MODE]).is_empty
    lab.apply([])
    assert lab.mode() == OFF and lab.host.ledger.read() == {}


def test_mig_mode_that_was_on_stays_on(lab: GpuLab) -> None:
    lab.host.nvml.set_mig_mode(FIRST, enabled=True)
    (change,) = lab.apply([MODE]).changes
    assert change.action is Action.ADOPT
    lab.apply([])
    assert lab.mode() == ON


def test_a_run_that_was_cut_off_does_not_forget_that_mig_was_off(lab: GpuLab) -> None:
    lab.store.begin("create", MODE)
    lab.host.ledger.claim(mode_key(FIRST), "demo")
    lab.host.nvml.set_mig_mode(FIRST, enabled=True)  # and here the run died
    (change,) = lab.apply([MODE]).changes
    assert change.action is Action.ADOPT
    lab.apply([])
    assert lab.mode() == OFF


@pytest.mark.parametrize("process", [SimProcess(900, "nvidia-persistenced", client=True), SimProcess(7, "python3")])
def test_who_holds_the_gpu_is_named_and_nothing_is_left_pending(lab: GpuLab, process: SimProcess) -> None:
    with lab.gpu() as gpu:
        gpu.processes.append(process)
    with pytest.raises(GpuBusyError, match=rf"held by {process.name} \(pid {process.pid}\); the mode is as it was"):
        lab.apply([MODE])
    assert lab.mode() == OFF and lab.host.ledger.read() == {}
    with lab.gpu() as gpu:
        gpu.processes.clear()
    lab.apply([MODE])
    assert lab.mode() == ON


def test_a_gpu_that_only_a_reset_changes_is_reported_with_the_commands(
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
    assert lab.mode() == OFF


def test_a_switch_that_was_pending_before_is_left_pending(lab: GpuLab) -> None:
    with lab.gpu() as gpu:
        gpu.processes.append(SimProcess(900, "dcgm", client=True))
    lab.host.nvml.set_mig_mode(FIRST, enabled=True)
    (change,) = lab.plan([MODE]).changes
    assert (change.action, change.reason) == (Action.CREATE, "waits for a reset of the GPU")
    with pytest.raises(GpuBusyError, match="still waits for a reset, as before"):
        lab.run(lab.plan([MODE]))
    assert lab.mode() == MigModeState(current=False, pending=True)


def test_mode_off_requested_by_hand_is_called_back(lab: GpuLab) -> None:
    lab.apply([MODE])
    with lab.gpu() as gpu:
        gpu.pending = False
    (change,) = lab.apply([MODE]).changes
    assert change.action is Action.REPAIR
    assert lab.mode() == ON


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
    assert lab.mode() == ON and lab.instances() == [("1g.10gb", 0)]


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
