"""Each return code of NVML becomes an error of ours, with a remedy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from emulator.adapters.nvidia import nvml_errors
from emulator.adapters.nvidia.nvml import NvmlGpus
from emulator.adapters.simulated.gpus import SimulatedGpu, SimulatedGpus, gpu_at
from emulator.adapters.simulated.nvml.store import GpuStore, SimProcess
from emulator.core.errors import ConfigError, ExitCode, GpuError, HostNotFitError, StateError
from emulator.gpu.errors import (
    GpuArgumentError,
    GpuBusyError,
    GpuDriverError,
    GpuLostError,
    GpuNoRoomError,
    GpuNotFoundError,
    GpuNotSupportedError,
    GpuPermissionError,
    GpuResetRequiredError,
    GpuTimeoutError,
)
from emulator.gpu.model import Placement
from emulator.gpu.ports import MigActivation

A100 = "0000:41:00.0"
SECOND = "0000:42:00.0"


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[SimulatedGpus]:
    gpus = [SimulatedGpu("a", "A100-SXM4-80GB", A100), SimulatedGpu("b", "A30", SECOND)]
    made = SimulatedGpus(tmp_path / "gpus", gpus)
    put_back = made.install()
    yield made
    put_back()


@pytest.fixture
def nvml(gpus: SimulatedGpus) -> Iterator[NvmlGpus]:
    made = NvmlGpus()
    yield made
    made.close()


def _fail(gpus: SimulatedGpus, symbol: str, code: int) -> None:
    with gpus.store.change() as state:
        state.faults.failures[symbol] = code


@pytest.mark.parametrize(
    ("code", "error", "fix"),
    [
        (1, GpuDriverError, "again"),
        (2, GpuArgumentError, "gpu discover"),
        (3, GpuNotSupportedError, "MIG mode"),
        (4, GpuPermissionError, "root"),
        (6, GpuNotFoundError, "gpu discover"),
        (9, GpuDriverError, "modprobe nvidia"),
        (10, GpuTimeoutError, "dmesg"),
        (13, GpuDriverError, "newer"),
        (15, GpuLostError, "reboot"),
        (16, GpuResetRequiredError, "--gpu-reset"),
        (18, GpuDriverError, "reload"),
        (19, GpuBusyError, "nvidia-persistenced"),
        (20, GpuNoRoomError, "stop"),
        (23, GpuNoRoomError, "gpu plan"),
        (25, GpuDriverError, "newer"),
        (27, GpuDriverError, "few seconds"),
        (999, GpuError, "dmesg"),
    ],
)
def test_a_refused_creation_says_why_and_what_to_do(
    gpus: SimulatedGpus, nvml: NvmlGpus, code: int, error: type[GpuError], fix: str
) -> None:
    nvml.set_mig_mode(A100, enabled=True)
    _fail(gpus, "nvmlDeviceCreateGpuInstanceWithPlacement", code)
    with pytest.raises(error) as caught:
        nvml.create_instance(A100, 19, Placement(2, 1))
    assert type(caught.value) is error
    assert caught.value.what.startswith("creating a GPU instance of profile 19 at memory slice 2")
    assert caught.value.where == f"gpu {A100}"
    assert fix in caught.value.fix
    assert nvml.instances(A100) == ()


def test_every_code_of_pynvml_has_a_meaning() -> None:
    codes = {value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_")}
    # 5 already initialised, 26 deprecated, 22 and 24 concern vGPU ECC and clocks, never touched; 999 is unknown.
    assert codes - set(nvml_errors.MEANINGS) == {5, 22, 24, 26, 999}


@pytest.mark.parametrize("code", [9, 12])
def test_without_a_driver_the_way_out_is_the_simulated_backend(gpus: SimulatedGpus, code: int) -> None:
    _fail(gpus, "nvmlInitWithFlags", code)
    with pytest.raises(HostNotFitError, match="no NVIDIA driver") as caught:
        NvmlGpus().gpus()
    assert "simulated" in caught.value.fix
    assert caught.value.exit_code is ExitCode.HOST_NOT_FIT


def test_no_library_at_all_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> None:
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", absent)
    pynvml._nvmlGetFunctionPointer_cache.clear()
    with pytest.raises(HostNotFitError, match=r"libnvidia-ml.so.1 is missing"):
        NvmlGpus().driver_version()


@pytest.mark.parametrize(("status", "activation"), [(19, MigActivation.IN_USE), (16, MigActivation.RESET_REQUIRED)])
def test_the_activation_status_is_looked_at(
    gpus: SimulatedGpus, nvml: NvmlGpus, monkeypatch: pytest.MonkeyPatch, status: int, activation: MigActivation
) -> None:
    monkeypatch.setattr(pynvml, "nvmlDeviceSetMigMode", lambda _device, _mode: status)
    assert nvml.set_mig_mode(A100, enabled=True) is activation


def test_a_lost_gpu_does_not_hide_the_others(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    with gpus.store.change() as state:
        gpu_at(state, A100).lost = True
    assert [gpu.pci_address for gpu in nvml.gpus()] == [SECOND]
    with pytest.raises(GpuLostError, match="lost"):
        nvml.mig_mode(A100)


def test_handles_from_before_a_reload_of_the_driver_are_void(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    nvml.set_mig_mode(A100, enabled=True)
    nvml.create_instance(A100, 19, Placement(0, 1))
    old = pynvml.nvmlDeviceGetHandleByPciBusId(A100)
    gpus.reload_driver()
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetMigMode(old)
    assert nvml.instances(A100) == ()  # ours fetches its handles anew


def test_an_unloaded_driver_is_reported(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    assert len(nvml.gpus()) == 2
    with gpus.store.change() as state:
        state.driver_loaded = False
    with pytest.raises(GpuDriverError, match="not loaded"):
        nvml.gpus()


def test_an_unknown_address_names_the_driver_binding(nvml: NvmlGpus) -> None:
    with pytest.raises(GpuNotFoundError, match="no GPU at this address"):
        nvml.mig_mode("0000:99:00.0")
    with pytest.raises(GpuArgumentError, match="not a PCI address"):
        nvml.mig_mode("../../etc")


def test_an_old_driver_without_named_profiles_still_lists_them(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    nvml.set_mig_mode(A100, enabled=True)
    _fail(gpus, "nvmlDeviceGetGpuInstanceProfileInfoV", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    names = [profile.name for profile in nvml.profiles(A100)]
    assert names == ["1g.10gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.79gb", "1g.10gb+me", "1g.20gb"]


# ---------------------------------------------------------------- the library itself
def test_missing_symbols_are_missing(gpus: SimulatedGpus) -> None:
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        pynvml.nvmlDeviceGetFanSpeed(handle)
    pynvml.nvmlShutdown()


def test_nothing_works_before_init_and_after_shutdown(gpus: SimulatedGpus) -> None:
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 2
    pynvml.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()


def test_arguments_are_checked_as_in_the_library(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    nvml.set_mig_mode(A100, enabled=True)
    handle = pynvml.nvmlDeviceGetHandleByPciBusId("00000000:41:00.0")
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetHandleByIndex(2)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetHandleByUUID("GPU-nobody")
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetMigMode(pynvml.c_nvmlDevice_t())
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, pynvml.NVML_GPU_INSTANCE_PROFILE_8_SLICE)
    with pytest.raises(pynvml.NVMLError_ArgumentVersionMismatch):
        pynvml.nvmlDeviceGetMemoryInfo(handle, version=0x01000028)
    assert pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2).total == 80 * 1024**3
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetGpuInstanceById(handle, 7)


def test_mig_devices_pair_instance_and_compute_instance(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    nvml.set_mig_mode(A100, enabled=True)
    made = nvml.create_instance(A100, 14, Placement(2, 2))
    handle = pynvml.nvmlDeviceGetHandleByPciBusId(A100)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0)
    instance = pynvml.nvmlDeviceGetGpuInstanceById(handle, made.gi_id)
    compute = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 1)
    assert pynvml.nvmlComputeInstanceGetInfo(compute).placement.size == 2
    device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, 0)
    assert pynvml.nvmlDeviceGetGpuInstanceId(device) == made.gi_id
    assert pynvml.nvmlDeviceGetUUID(device).startswith("MIG-")
    assert pynvml.nvmlDeviceGetMemoryInfo(device).total == 19968 * 1024**2
    with gpus.store.change() as state:
        gpu_at(state, A100).processes.append(SimProcess(7, "train.py", 1024, made.gi_id))
    (memory,) = nvml.instance_utilisation(A100).values()
    assert (memory.memory_used_mib, memory.memory_total_mib) == (1024, 19968)
    assert nvml.instance_utilisation(SECOND) == {}
    parent = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device)
    assert pynvml.nvmlDeviceGetUUID(parent) == pynvml.nvmlDeviceGetUUID(handle)


# ---------------------------------------------------------------- the state
def test_a_refused_change_leaves_no_trace(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    before = (gpus.store._path.read_bytes(), gpus.store.look())
    with pytest.raises(GpuNotSupportedError):
        nvml.create_instance(A100, 19, Placement(0, 1))
    assert (gpus.store._path.read_bytes(), gpus.store.look()) == before


def test_several_threads_carve_one_gpu(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    nvml.set_mig_mode(A100, enabled=True)
    failures: list[BaseException] = []

    def carve(start: int) -> None:
        try:
            nvml.create_instance(A100, 19, Placement(start, 1))
        except GpuError as error:
            failures.append(error)

    threads = [threading.Thread(target=carve, args=(start,)) for start in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [item.placement.start for item in nvml.instances(A100)] == list(range(7))


@pytest.mark.parametrize(
    "text", ["", "{", '{"format": 99}', '{"format": 1, "surprise": 1}', "[]", '{"format": 1, "GPUs": ["x"]}']
)
def test_a_damaged_state_is_an_error_with_a_way_out(tmp_path: Path, text: str) -> None:
    (tmp_path / "gpus.json").write_text(text)
    with pytest.raises(StateError, match="cannot be read") as caught:
        GpuStore(tmp_path).look()
    assert "remove the file" in caught.value.fix


def test_the_state_is_private(gpus: SimulatedGpus) -> None:
    directory = gpus.store._directory
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "gpus.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ([SimulatedGpu("a", "A100-SXM5", A100)], "no GPU 'A100-SXM5'"),
        ([SimulatedGpu("a", "A30", A100), SimulatedGpu("b", "A30", "41:00.0")], "two GPUs at"),
    ],
)
def test_impossible_gpus_are_refused(tmp_path: Path, gpus: list[SimulatedGpu], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SimulatedGpus(tmp_path, gpus)
