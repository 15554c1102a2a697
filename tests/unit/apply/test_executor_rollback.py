"""A carve that fails half way leaves the GPUs as they were: what the run made is gone, what was there stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from emulator.adapters.simulated.gpus import SimulatedGpu, SimulatedGpus
from emulator.adapters.simulated.sysfs.acting_files import SimulatedFiles
from emulator.apply.executor import Executor
from emulator.apply.gpu_ownership import GpuLedger
from emulator.apply.handler import ApplyContext, Handle
from emulator.core.errors import CommandError, GpuError, HyperscalerError, StateError
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.gpu import model
from emulator.gpu.model import Placement
from emulator.gpu.placement.demand import Assignment
from emulator.gpu.ports import VgpuFramework
from emulator.plan.gpu_build import build_gpus
from emulator.plan.gpu_resources import GpuInstance
from emulator.plan.model import Action, Change, Plan
from emulator.plan.resources import Resource
from emulator.plan.steps import steps_of
from tests.support.gpu_lab import FIRST, SECOND, GpuLab, gpu_machine, sliced

CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
NODES = {
    "n1": [sliced("a", "3g.40gb", 4), sliced("b", "1g.10gb", 1, "gpu-1")],
    "n2": [sliced("c", "2g.20gb", 0), sliced("d", "1g.10gb", 0, "gpu-1")],
    "n3": [sliced("e", "1g.10gb", 3), sliced("f", "3g.40gb", 4, "gpu-1")],
}
SLICES = 6


@contextmanager
def failing_create(lab: GpuLab, number: int, code: int) -> Iterator[None]:
    """The `number`-th creation of a GPU instance (from 1) is answered with NVML's `code`."""
    nvml, calls = lab.host.nvml, 0
    real = nvml.create_instance

    def create(address: str, profile_id: int, placement: Placement) -> model.GpuInstance:
        nonlocal calls
        calls += 1
        with lab.gpus.store.change() as state:
            state.faults.failures = {CREATE: code} if calls == number else {}
        try:
            return real(address, profile_id, placement)
        finally:
            with lab.gpus.store.change() as state:
                state.faults.failures = {}

    with patch.object(nvml, "create_instance", create):
        yield


@pytest.mark.parametrize("code", [15, 19, 23, 999], ids=["lost", "in-use", "no-room", "unknown"])
@pytest.mark.parametrize("number", range(1, SLICES + 1))
def test_any_creation_may_fail(lab: GpuLab, number: int, code: int) -> None:
    blank = lab.snapshot()
    wanted = lab.wanted(**NODES)
    plan = lab.plan(wanted)
    with failing_create(lab, number, code), pytest.raises(GpuError):
        lab.run(plan)
    assert lab.snapshot() == blank
    left = [record for record in lab.state.resources.values() if not record.open_action]
    assert left == []
    lab.apply(wanted)  # and the way is free for the next run
    assert len(lab.instances(FIRST)) + len(lab.instances(SECOND)) == SLICES
    lab.apply([])
    assert lab.snapshot() == blank


def test_what_was_there_stays(any_lab: GpuLab) -> None:
    before_nodes = {"n1": NODES["n1"], "n2": NODES["n2"][:1]}
    any_lab.apply(any_lab.wanted(**before_nodes))
    before, handles = any_lab.snapshot(), {k: r.handle for k, r in any_lab.state.resources.items()}
    with failing_create(any_lab, 2, 23), pytest.raises(GpuError):
        any_lab.apply(any_lab.wanted(**NODES))
    assert any_lab.snapshot() == before
    assert {key: record.handle for key, record in any_lab.state.resources.items() if not record.open_action} == handles
    any_lab.apply(any_lab.wanted(**before_nodes))  # only strikes the failed creation off the record
    assert any_lab.snapshot() == before and not any(r.open_action for r in any_lab.state.resources.values())


@pytest.mark.parametrize("number", range(1, SLICES + 1))
def test_any_vgpu_may_fail(any_lab: GpuLab, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    blank = any_lab.snapshot()
    calls, files = 0, any_lab.gpus.files
    real = type(files).write

    def write(self: SimulatedFiles, path: str, text: str, *, timeout: float = 10.0) -> None:
        nonlocal calls
        if path.endswith(("/create", "/current_vgpu_type")) and text != "0":
            calls += 1
            if calls == number:
                raise OSError(5, "Input/output error")
        real(self, path, text, timeout=timeout)

    monkeypatch.setattr(type(files), "write", write)
    with pytest.raises(GpuError):
        any_lab.apply(any_lab.wanted(**NODES))
    assert any_lab.snapshot() == blank


@pytest.mark.parametrize("address", [FIRST, SECOND])
def test_virtual_functions_may_fail(lab: GpuLab, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    blank = lab.snapshot()
    real = lab.host.sriov.enable

    def enable(wanted: str) -> tuple[str, ...]:
        if wanted == address:
            raise CommandError("sriov-manage failed with status 1: unbind failed")
        return real(wanted)

    monkeypatch.setattr(lab.host.sriov, "enable", enable)
    with pytest.raises(CommandError):
        lab.apply(lab.wanted(**NODES))
    assert lab.snapshot() == blank


def test_a_whole_gpu_goes_back_with_the_slices(lab: GpuLab) -> None:
    blank = lab.snapshot()
    wanted = lab.wanted(n1=[Assignment("w", "gpu-1")], n2=[sliced("a", "3g.40gb", 4)])
    with failing_create(lab, 1, 23), pytest.raises(GpuError):
        lab.apply(wanted)
    assert lab.snapshot() == blank


def test_what_cannot_be_rolled_back_stays_on_record(lab: GpuLab, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = lab.wanted(n1=[sliced("a", "1g.10gb", 0), sliced("b", "1g.10gb", 1)])

    def refuse(address: str, profile_id: int, start: int) -> bool:
        raise GpuError("the GPU hangs")

    monkeypatch.setattr(lab.host.nvml, "destroy_instance", refuse)
    warnings: list[str] = []

    class Listening(SilentReporter):
        def warn(self, message: str) -> None:
            warnings.append(message)

    plan = lab.plan(wanted)
    with failing_create(lab, 2, 23), pytest.raises(HyperscalerError, match="no room"):
        Executor(lab.handlers, lab.store, Listening()).apply(plan)
    assert any("could not be rolled back: the GPU hangs" in line for line in warnings)
    kept = next(item.id for item in wanted if isinstance(item, GpuInstance) and item.start == 0)
    assert lab.state.resources[kept].open_action == "delete"
    monkeypatch.undo()
    lab.apply([])
    assert lab.state.is_empty and lab.instances() == []


def test_a_stop_is_no_failure_and_rolls_nothing_back(lab: GpuLab) -> None:
    wanted = lab.wanted(**NODES)
    stop = StopFlag()
    handler = lab.handlers["virtual-functions"]
    real = handler.ensure

    def ensure(resource: Any, previous: Resource | None, context: ApplyContext) -> Handle:
        stop.set()
        return real(resource, previous, context)

    with patch.object(handler, "ensure", ensure), pytest.raises(HyperscalerError, match="stopped on request"):
        Executor(lab.handlers, lab.store, SilentReporter(), stop=stop).apply(lab.plan(wanted))
    assert any(key.startswith("virtual-functions/") for key in lab.state.resources)
    lab.use(lab.host)
    lab.apply(wanted)
    assert lab.plan(wanted).is_empty


# ---------------------------------------------------------------- the order of steps
def test_a_slice_gets_its_vgpu_before_the_next_of_its_kind_is_cut(lab: GpuLab) -> None:
    wanted = lab.wanted(n1=[sliced(f"d{start}", "1g.10gb", start) for start in range(3)])
    _, waits = steps_of(lab.plan(wanted))
    slices = [item.id for item in wanted if item.kind == "gpu-instance"]
    vgpus = [item.id for item in wanted if item.kind == "vgpu"]
    for vgpu, following in zip(vgpus, slices[1:], strict=False):
        assert f"ensure {vgpu}" in waits[f"ensure {following}"]


def test_a_middle_slice_can_go_because_it_carries_its_own_vgpu(any_lab: GpuLab) -> None:
    seven = {f"n{start}": [sliced(f"d{start}", "1g.10gb", start)] for start in range(7)}
    any_lab.apply(any_lab.wanted(**seven))
    del seven["n3"]
    plan = any_lab.apply(any_lab.wanted(**seven))
    assert [change.action for change in plan.changes] == [Action.DELETE, Action.DELETE]
    assert [start for _, start in any_lab.instances()] == [0, 1, 2, 4, 5, 6]


def test_functions_that_were_on_while_mig_was_off(any_lab: GpuLab) -> None:
    with any_lab.host.nvml.released():
        any_lab.host.sriov.enable(FIRST)
    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 0)])
    any_lab.apply(wanted)
    assert any_lab.plan(wanted).is_empty
    any_lab.apply([])
    assert any_lab.vgpus() == [] and any_lab.host.ledger.read() == {}


def test_a_lost_record_and_another_wish_at_once(any_lab: GpuLab) -> None:
    any_lab.apply(any_lab.wanted(n1=[sliced("a", "3g.40gb", 4), sliced("b", "1g.10gb", 0)]))
    any_lab.journal.unlink()
    wanted = any_lab.wanted(n1=[sliced("a", "4g.40gb", 0)])
    any_lab.apply(wanted)
    assert any_lab.instances() == [("4g.40gb", 0)] and any_lab.plan(wanted).is_empty


def test_steps_in_a_circle_are_an_error_and_no_hang(lab: GpuLab, tmp_path: Path) -> None:
    first, second = (
        GpuInstance(
            name=name,
            needs=(f"gpu-instance/{other}",),
            device="gpu-0",
            pci_address=FIRST,
            profile="1g.10gb",
            start=0,
            size=1,
        )
        for name, other in (("a", "b"), ("b", "a"))
    )
    plan = Plan("demo", (Change(Action.CREATE, first, ""), Change(Action.CREATE, second, "")))
    with pytest.raises(StateError, match="wait for each other"):
        lab.run(plan)


# ---------------------------------------------------------------- time
def test_56_slices_are_carved_in_about_a_second(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    from emulator.wiring import assemble_gpus

    addresses = {f"g{index}": f"0000:{0x41 + index:02x}:00.0" for index in range(8)}
    devices = [SimulatedGpu(name, "A100-SXM4-80GB", address) for name, address in addresses.items()]
    gpus = SimulatedGpus(tmp_path / "gpus", devices, framework=VgpuFramework.MDEV)
    put_back = gpus.install()
    try:
        host = assemble_gpus(gpus.files, gpus.runner, GpuLedger(tmp_path / "owners.json"), real=False)
        lab = GpuLab(gpus, host, tmp_path)
        where = [sliced(f"{gpu}-{start}", "1g.10gb", start, gpu) for gpu in addresses for start in range(7)]
        wanted = build_gpus("demo", addresses, {"n": where}).resources
        plan = lab.plan(wanted)
        started = time.process_time()
        lab.run(plan)
        spent = time.process_time() - started
        record_property("seconds", round(spent, 2))
        print(f"56 slices: {spent:.2f} s of processor time")
        assert sum(len(host.nvml.instances(address)) for address in addresses.values()) == 56
        assert lab.plan(wanted).is_empty
        host.nvml.close()
    finally:
        put_back()
    assert spent < 20  # a guard against something quadratic; the figure itself is the benchmarks' business


def test_the_machine_of_the_tests_is_blank(tmp_path: Path) -> None:
    with gpu_machine(tmp_path) as lab:
        assert lab.vgpus() == [] and lab.state.is_empty and lab.host.ledger.read() == {}
