"""One GPU whose NVML calls fail: the others stay visible, and the bad one is named with its reason."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest

from emulator.adapters.simulated.nvml.library import SimulatedNvmlLibrary, Symbol
from emulator.core.errors import HyperscalerError
from emulator.gpu.model import Placement
from emulator.host.gpus import Gpu, discover_gpus, require_devices
from emulator.labfile.model import GpuDeviceSpec
from emulator.operations.gpu.reports import discover, usage
from tests.support.gpu_lab import FIRST, SECOND, GpuLab, gpu_machine

CODES = sorted({value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")})
# The calls of a GPU begin with its handle; these come before that of any GPU.
_BEFORE = {"nvmlDeviceGetCount_v2", "nvmlSystemGetDriverVersion"}
_NEEDED = ["nvmlDeviceGetHandleByIndex_v2", "nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetMemoryInfo"]
_NEEDED += ["nvmlDeviceGetUUID", "nvmlDeviceGetName"]


class Calls:
    """Counts the library's calls by symbol, and fails one of them."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.fail: dict[int, int] = {}

    def reset(self, fail: dict[int, int] | None = None) -> None:
        """Count from 0 again; `fail` maps the number of a call to its return code."""
        self.made, self.fail = [], fail or {}

    def watch(self, library: SimulatedNvmlLibrary) -> None:
        symbols: dict[str, Symbol] = library.__dict__["_symbols"]
        for name, symbol in symbols.items():
            symbol._call = self._watched(name, symbol._call)

    def _watched(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def watched(*arguments: object) -> object:
            self.made.append(name)
            code = self.fail.get(len(self.made) - 1)
            return call(*arguments) if code is None else code

        return watched


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[tuple[GpuLab, Calls]]:
    """Two A100s in MIG mode with virtual functions and a slice each, and a library whose calls can fail."""
    with gpu_machine(tmp_path) as lab:
        for address in (FIRST, SECOND):
            lab.host.nvml.set_mig_mode(address, enabled=True)
            with lab.host.nvml.released():
                lab.host.sriov.enable(address)
            lab.host.nvml.create_instance(address, 19, Placement(0, 1))
        calls = Calls()
        calls.watch(pynvml.nvmlLib)
        yield lab, calls


def seen(lab: GpuLab) -> dict[str, Gpu]:
    return {gpu.pci_address: gpu for gpu in discover_gpus(lab.host.nvml, lab.host.pci)}


def calls_of_second(lab: GpuLab, calls: Calls) -> dict[str, int]:
    """The first call of each symbol that concerns the second GPU, by its place in the order of calls."""
    calls.reset()
    seen(lab)
    handles = [number for number, name in enumerate(calls.made) if name == "nvmlDeviceGetHandleByIndex_v2"]
    places: dict[str, int] = {}
    for number in range(handles[1], len(calls.made)):
        places.setdefault(calls.made[number], number)
    return places


def test_any_call_may_fail_with_any_code_for_one_gpu(machine: tuple[GpuLab, Calls]) -> None:
    lab, calls = machine
    good = seen(lab)
    places = calls_of_second(lab, calls)
    assert len(places) > 15 and set(_NEEDED) <= places.keys() and not _BEFORE & places.keys()
    faulty: dict[str, set[int]] = {}
    for symbol, place in places.items():
        for code in CODES:
            calls.reset({place: code})
            found = seen(lab)
            assert found[FIRST] == good[FIRST], (symbol, code)
            bad = found[SECOND]
            assert (bad.nvml is None) == (bad.fault is not None), (symbol, code)
            if bad.fault is not None:
                assert bad.fault.pci_address == SECOND and bad.fault.reason.startswith("reading the GPU")
                faulty.setdefault(symbol, set()).add(code)
    for symbol in _NEEDED:
        assert faulty[symbol] == set(CODES), symbol


@pytest.mark.parametrize("symbol", _NEEDED)
def test_only_a_lab_that_wants_the_bad_gpu_is_refused(machine: tuple[GpuLab, Calls], symbol: str) -> None:
    lab, calls = machine
    calls.reset({calls_of_second(lab, calls)[symbol]: 999})
    gpus = discover_gpus(lab.host.nvml, lab.host.pci)
    first, second = (device_of(name, address) for name, address in (("gpu-0", FIRST), ("gpu-1", SECOND)))
    require_devices([first], gpus)
    with pytest.raises(HyperscalerError, match=f"gpu-1: pci_address is {re.escape(SECOND)} in the file") as caught:
        require_devices([first, second], gpus)
    assert "NVML cannot read the GPU there: reading the GPU" in caught.value.what and "dmesg" in caught.value.fix


def device_of(name: str, address: str) -> GpuDeviceSpec:
    return GpuDeviceSpec(
        id=name, model="A100-SXM4-80GB", pci_address=address, mig_capable=True, allowed_mig_profiles=()
    )


def test_reports_show_the_good_gpu_next_to_the_bad_one(machine: tuple[GpuLab, Calls]) -> None:
    lab, calls = machine
    calls.reset({calls_of_second(lab, calls)["nvmlDeviceGetName"]: 999})
    found = discover(lab.host)
    assert [gpu.fault is None for gpu in found.gpus] == [True, False]
    calls.reset()
    whole = usage(lab.host, {})
    asked = [number for number, name in enumerate(calls.made) if name == "nvmlDeviceGetUtilizationRates"]
    calls.reset({asked[-1]: 999})
    partly = usage(lab.host, {})
    assert partly[0] == whole[0] and partly[1].use is None and whole[1].use is not None


def test_several_bad_gpus_without_an_address_share_their_reasons(machine: tuple[GpuLab, Calls]) -> None:
    lab, calls = machine
    calls.reset()
    seen(lab)
    # A GPU whose handle cannot be had is asked nothing more, so the second one's turn comes with the next call.
    first = calls.made.index("nvmlDeviceGetHandleByIndex_v2")
    calls.reset({first: 16, first + 1: 999})
    found = seen(lab)
    assert list(found) == [FIRST, SECOND]
    for address, gpu in found.items():
        assert gpu.fault is not None and gpu.fault.pci_address == address
        assert "needs a reset" in gpu.fault.reason and "code 999" in gpu.fault.reason


def test_a_gpu_at_a_guest_has_no_fault(machine: tuple[GpuLab, Calls]) -> None:
    lab, calls = machine
    lab.host.nvml.destroy_instance(SECOND, 19, 0)
    with lab.host.nvml.released():
        lab.host.sriov.disable(SECOND)
        lab.host.passthrough.bind(SECOND)
    calls.reset()
    seen(lab)
    calls.reset({calls.made.index("nvmlDeviceGetHandleByIndex_v2"): 999})
    found = seen(lab)
    assert found[FIRST].fault is not None and found[SECOND].fault is None


def test_a_lost_gpu_that_sysfs_does_not_show_is_logged(
    machine: tuple[GpuLab, Calls], caplog: pytest.LogCaptureFixture
) -> None:
    lab, _calls = machine
    with lab.gpu(SECOND) as gpu:
        gpu.lost = True
    with caplog.at_level(logging.WARNING):
        assert list(seen(lab)) == [FIRST]
    assert "the GPU is lost" in caplog.text
