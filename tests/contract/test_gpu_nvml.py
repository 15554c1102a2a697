"""What NVML must be like: read-only over a real driver where there is one, everything over the simulated one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest

from emulator.adapters.nvidia.nvml import NvmlGpus
from emulator.adapters.nvidia.pci_sysfs import SysfsPci
from emulator.adapters.simulated.gpus import SimulatedGpu, SimulatedGpus, gpu_at
from emulator.adapters.simulated.nvml import engine_instances as carving
from emulator.adapters.simulated.nvml.engine import NvmlReturnError
from emulator.adapters.simulated.nvml.store import SimGpu, SimProcess
from emulator.adapters.system.host_files import HostFiles
from emulator.gpu.catalog import find_gpu, find_gpu_by_pci
from emulator.gpu.catalog import gpus as catalogue
from emulator.gpu.errors import (
    GpuArgumentError,
    GpuBusyError,
    GpuNoRoomError,
    GpuNotSupportedError,
    GpuPermissionError,
)
from emulator.gpu.geometry import feasible_multisets, is_legal_layout
from emulator.gpu.model import Placement
from emulator.gpu.ports import MigActivation, VgpuFramework
from tests.support.waiting import PATIENCE

A100 = "0000:41:00.0"
H100 = "0000:81:00.0"
RTX = "0000:c1:00.0"


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[SimulatedGpus]:
    made = SimulatedGpus(
        tmp_path / "gpus",
        [
            SimulatedGpu("a", "A100-SXM4-80GB", A100),
            SimulatedGpu("h", "h100-pcie-80gb", H100),
            SimulatedGpu("r", "GeForce RTX 4090", RTX),
        ],
    )
    put_back = made.install()
    yield made
    put_back()


@pytest.fixture
def nvml(gpus: SimulatedGpus) -> Iterator[NvmlGpus]:
    made = NvmlGpus()
    yield made
    made.close()


def _carve_mode(nvml: NvmlGpus, address: str = A100) -> None:
    assert nvml.set_mig_mode(address, enabled=True) is MigActivation.ACTIVE


# ---------------------------------------------------------------- both backends, read-only
@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.hardware)])
def any_nvml(request: pytest.FixtureRequest) -> Iterator[NvmlGpus]:
    if request.param == "simulated":
        request.getfixturevalue("gpus")
    elif shutil.which("nvidia-smi") is None:
        pytest.skip("no NVIDIA driver on this machine")
    made = NvmlGpus()
    yield made
    made.close()


def test_gpus_are_read_without_changing_anything(any_nvml: NvmlGpus) -> None:
    found = any_nvml.gpus()
    assert found
    assert any_nvml.driver_version().partition(".")[0].isdigit()
    assert len({gpu.pci_address for gpu in found}) == len(found)
    for gpu in found:
        assert gpu.uuid.startswith("GPU-")
        assert gpu.pci_id.startswith("10de:")
        assert 0 <= gpu.memory_used_mib <= gpu.memory_total_mib
        assert any_nvml.mig_mode(gpu.pci_address) == gpu.mig
        assert any_nvml.utilisation(gpu.pci_address).memory_total_mib == gpu.memory_total_mib
        if gpu.mig is None or not gpu.mig.current:
            assert gpu.instances == ()
        for profile in gpu.profiles:
            assert profile.placements is None or len(profile.placements) >= profile.max_instances


def test_the_catalogue_describes_the_gpu(any_nvml: NvmlGpus) -> None:
    """Also while MIG is off: the driver tells profiles and placements then, too."""
    checked = 0
    for gpu in any_nvml.gpus():
        known = find_gpu_by_pci(gpu.pci_id)
        if known is None or gpu.mig is None:
            continue
        checked += 1
        listed = {item.gi_profile_id: item for item in gpu.profiles}
        expected = {item.gi_profile_id: item for item in known.profiles}
        assert listed.keys() == expected.keys(), gpu.name
        for number, item in expected.items():
            seen = listed[number]
            assert (seen.name, seen.nvml_profile, seen.compute_slices) == (
                item.name,
                item.nvml_profile,
                item.compute_slices,
            )
            assert seen.max_instances == item.max_instances
            assert seen.placements in (None, item.placements)  # None: only root can list the placements
            assert item.memory_mib in (None, seen.memory_mib) and item.sm_count in (None, seen.sm_count)
    assert checked, "no GPU of the catalogue is here"


def test_a_released_nvml_has_no_gpu_open(any_nvml: NvmlGpus, request: pytest.FixtureRequest) -> None:
    """The driver lets go of a GPU only when nobody has its device node open, which an initialised NVML has."""
    simulated = "simulated" in request.node.callspec.id
    pci = SysfsPci(request.getfixturevalue("gpus").files if simulated else HostFiles())
    nodes = [f"/dev/nvidia{gpu.minor_number}" for gpu in any_nvml.gpus()]

    def held() -> set[str]:
        return {holder.path for holder in pci.holders(*nodes) if holder.pid == os.getpid()}

    assert held() == set(nodes)
    with any_nvml.released():
        assert held() == set()
    assert len(any_nvml.gpus()) == len(nodes)


# ---------------------------------------------------------------- discovery over the simulated library
def test_profiles_are_those_of_the_table(nvml: NvmlGpus) -> None:
    _carve_mode(nvml)
    known = find_gpu("a100-sxm4-80gb")
    assert known is not None
    found = {profile.name: profile for profile in nvml.profiles(A100)}
    assert set(found) == set(known.profile_names)
    for profile in known.profiles:
        seen = found[profile.name]
        assert seen.gi_profile_id == profile.gi_profile_id
        assert seen.nvml_profile == profile.nvml_profile
        assert seen.placements == profile.placements
        assert (seen.max_instances, seen.compute_slices) == (profile.max_instances, profile.compute_slices)
        assert (seen.memory_mib, seen.media_extensions) == (profile.memory_mib, profile.media_extensions)


@pytest.mark.parametrize("model", [gpu.id for gpu in catalogue()])
def test_every_gpu_of_the_catalogue_can_be_simulated(tmp_path: Path, model: str) -> None:
    made = SimulatedGpus(tmp_path, [SimulatedGpu("x", model, "0000:01:00.0")])
    put_back = made.install()
    nvml = NvmlGpus()
    try:
        known = find_gpu(model)
        assert known is not None
        (gpu,) = nvml.gpus()
        assert gpu.name == known.product_name and gpu.architecture == known.architecture
        assert (gpu.mig is not None) == known.mig_capable
        if known.mig_capable:
            nvml.set_mig_mode(gpu.pci_address, enabled=True)
            profiles = nvml.profiles(gpu.pci_address)
            assert {profile.name for profile in profiles} == set(known.profile_names)
            for profile in profiles:
                capacity = nvml.remaining_capacity(gpu.pci_address, profile.gi_profile_id)
                assert capacity == profile.max_instances, profile.name
        else:
            with pytest.raises(GpuNotSupportedError, match="no MIG"):
                nvml.set_mig_mode(gpu.pci_address, enabled=True)
    finally:
        nvml.close()
        put_back()


def test_a_gpu_without_mig_lists_no_profiles(nvml: NvmlGpus) -> None:
    assert nvml.mig_mode(RTX) is None
    assert nvml.profiles(RTX) == ()


def test_mig_off_means_no_carving(nvml: NvmlGpus) -> None:
    """The driver tells what could be carved, and that nothing is, all the same."""
    assert "1g.10gb" in {profile.name for profile in nvml.profiles(A100)}
    assert nvml.instances(A100) == () and nvml.remaining_capacity(A100, 19) == 7
    with pytest.raises(GpuNotSupportedError, match="MIG mode is off"):
        nvml.create_instance(A100, 19, Placement(0, 1))


# ---------------------------------------------------------------- carving
def test_an_instance_is_found_again_by_profile_and_start(nvml: NvmlGpus) -> None:
    _carve_mode(nvml)
    made = nvml.create_instance(A100, 9, Placement(4, 4))
    assert nvml.instances(A100) == (made,)
    assert (made.profile, made.placement) == ("3g.40gb", Placement(4, 4))
    assert nvml.destroy_instance(A100, 9, 0) is False
    assert nvml.destroy_instance(A100, 9, 4) is True
    assert nvml.destroy_instance(A100, 9, 4) is False


def test_ids_say_where_and_are_given_again(nvml: NvmlGpus) -> None:
    _carve_mode(nvml)
    third = nvml.create_instance(A100, 19, Placement(3, 1))
    half = nvml.create_instance(A100, 9, Placement(4, 4))
    quarter = nvml.create_instance(A100, 14, Placement(0, 2))
    assert 7 <= (third.gi_id or 0) <= 14 and half.gi_id in (1, 2) and quarter.gi_id in (3, 4, 5, 6)
    nvml.destroy_instance(A100, 19, 3)
    assert nvml.create_instance(A100, 19, Placement(3, 1)).gi_id == third.gi_id


def test_overlap_wrong_start_and_unknown_profile_are_refused(nvml: NvmlGpus) -> None:
    _carve_mode(nvml)
    nvml.create_instance(A100, 9, Placement(0, 4))
    with pytest.raises(GpuNoRoomError, match="no room"):
        nvml.create_instance(A100, 19, Placement(3, 1))
    with pytest.raises(GpuArgumentError):
        nvml.create_instance(A100, 19, Placement(7, 1))  # memory slice 7 cannot host a 1g
    with pytest.raises(GpuArgumentError):
        nvml.create_instance(A100, 1, Placement(4, 2))  # the enumeration index instead of the id
    assert nvml.remaining_capacity(A100, 19) == 3


def test_media_engines_are_given_once(nvml: NvmlGpus) -> None:
    _carve_mode(nvml)
    nvml.create_instance(A100, 20, Placement(0, 1))
    assert nvml.remaining_capacity(A100, 20) == 0
    with pytest.raises(GpuNoRoomError):
        nvml.create_instance(A100, 20, Placement(1, 1))


def test_the_a100_accepts_exactly_the_feasible_multisets_in_every_order() -> None:
    """All 77 multisets of the profiles without media engines, through the engine, in all orders.

    From every layout that can be reached, every profile is tried at every placement. What the engine accepts
    depends on the set of instances alone, so these steps are the steps of all orders.
    """
    gpu = find_gpu("a100-sxm4-80gb")
    assert gpu is not None
    profiles = [profile for profile in gpu.profiles if not profile.media_extensions]
    names = tuple(profile.name for profile in profiles)
    ids = {profile.gi_profile_id: profile.name for profile in profiles}
    empty = SimGpu("x", gpu.id, A100, "GPU-0", 0, 10, mig=True)
    reached: dict[tuple[tuple[str, int], ...], SimGpu] = {(): empty}
    waiting: list[tuple[tuple[str, int], ...]] = [()]
    while waiting:
        layout = waiting.pop()
        for profile in profiles:
            for place in profile.placements or ():
                made = deepcopy(reached[layout])
                longer = (*layout, (profile.name, place.start))
                try:
                    carving.create(made, profile.gi_profile_id, place)
                except NvmlReturnError:
                    assert not is_legal_layout(gpu, longer), longer
                    continue
                assert is_legal_layout(gpu, longer), longer
                key = tuple((ids[item.profile_id], item.start) for item in made.instances)
                if key not in reached:
                    reached[key] = made
                    waiting.append(key)
    multisets = {tuple(sum(name == item for item, _ in layout) for name in names) for layout in reached if layout}
    assert multisets == feasible_multisets(gpu, names)
    assert len(multisets) == 77


def test_first_fit_blocks_what_explicit_placement_allows(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    """The field case: 3g first goes to slice 0 and leaves no place for a 4g, which lies at 0 only."""
    import pynvml

    _carve_mode(nvml)
    handle = pynvml.nvmlDeviceGetHandleByPciBusId(A100)
    pynvml.nvmlDeviceCreateGpuInstance(handle, 9)
    with pytest.raises(pynvml.NVMLError_InsufficientResources):
        pynvml.nvmlDeviceCreateGpuInstance(handle, 5)
    nvml.destroy_instance(A100, 9, 0)
    nvml.create_instance(A100, 9, Placement(4, 4))
    assert pynvml.nvmlDeviceCreateGpuInstance(handle, 5)


def test_compute_instances_keep_their_gpu_instance(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    import pynvml

    _carve_mode(nvml)
    made = nvml.create_instance(A100, 9, Placement(0, 4))
    handle = pynvml.nvmlDeviceGetHandleByPciBusId(A100)
    instance = pynvml.nvmlDeviceGetGpuInstanceById(handle, made.gi_id)
    pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 1)
    pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
    with pytest.raises(pynvml.NVMLError_InsufficientResources):
        pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
    assert [item.busy for item in nvml.instances(A100)] == [True]
    with pytest.raises(pynvml.NVMLError_InUse):
        pynvml.nvmlGpuInstanceDestroy(instance)
    assert nvml.destroy_instance(A100, 9, 0) is True  # ours takes the compute instances away first
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        pynvml.nvmlGpuInstanceGetInfo(instance)


def test_an_instance_with_a_process_is_left_whole(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    _carve_mode(nvml)
    made = nvml.create_instance(A100, 19, Placement(0, 1))
    with gpus.store.change() as state:
        gpu_at(state, A100).processes.append(SimProcess(4711, "train.py", 512, made.gi_id))
    with pytest.raises(GpuBusyError, match=r"train.py \(pid 4711\)"):
        nvml.destroy_instance(A100, 19, 0)
    assert nvml.gpus()[0].processes[0].gpu_instance_id == made.gi_id
    assert len(nvml.instances(A100)) == 1


# ---------------------------------------------------------------- MIG mode
def test_ampere_waits_for_its_clients_and_hopper_does_not(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    holder = SimProcess(900, "nvidia-persistenced", client=True)
    with gpus.store.change() as state:
        for address in (A100, H100):
            gpu_at(state, address).processes.append(holder)
    assert nvml.set_mig_mode(A100, enabled=True) is MigActivation.IN_USE
    mode = nvml.mig_mode(A100)
    assert mode is not None and mode.waits_for_reset and not mode.current
    assert nvml.set_mig_mode(H100, enabled=True) is MigActivation.ACTIVE
    with gpus.store.change() as state:
        gpu_at(state, A100).processes.clear()
    assert nvml.set_mig_mode(A100, enabled=True) is MigActivation.ACTIVE


def test_a_pending_mode_becomes_true_with_a_reset(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    with gpus.store.change() as state:
        gpu_at(state, A100).processes.append(SimProcess(900, "dcgm", client=True))
    nvml.set_mig_mode(A100, enabled=True)
    with gpus.store.change() as state:
        gpu_at(state, A100).processes.clear()
    gpus.reset_gpu(A100)
    mode = nvml.mig_mode(A100)
    assert mode is not None and mode.current and not mode.waits_for_reset


def test_mig_stays_on_while_functions_or_instances_exist(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    _carve_mode(nvml)
    nvml.create_instance(A100, 19, Placement(0, 1))
    with pytest.raises(GpuBusyError):
        nvml.set_mig_mode(A100, enabled=False)
    nvml.destroy_instance(A100, 19, 0)
    assert nvml.set_mig_mode(A100, enabled=False) is MigActivation.ACTIVE


# ---------------------------------------------------------------- what is lost
def test_a_reboot_takes_instances_and_on_hopper_the_mode(gpus: SimulatedGpus, nvml: NvmlGpus) -> None:
    for address in (A100, H100):
        _carve_mode(nvml, address)
        nvml.create_instance(address, 19, Placement(0, 1))
    gpus.reboot()
    assert nvml.instances(A100) == ()
    ampere, hopper = nvml.mig_mode(A100), nvml.mig_mode(H100)
    assert ampere is not None and ampere.current
    assert hopper is not None and not hopper.current


def test_another_boot_of_the_host_is_a_reboot(tmp_path: Path) -> None:
    gpus_ = [SimulatedGpu("a", "A100-SXM4-80GB", A100)]
    put_back = SimulatedGpus(tmp_path, gpus_, boot_id=lambda: "one").install()
    nvml = NvmlGpus()
    _carve_mode(nvml)
    nvml.create_instance(A100, 19, Placement(0, 1))
    nvml.close()
    put_back()
    for boot, expected in (("one", 1), ("two", 0)):
        put_back = SimulatedGpus(tmp_path, gpus_, boot_id=partial(str, boot)).install()
        nvml = NvmlGpus()
        assert len(nvml.instances(A100)) == expected
        nvml.close()
        put_back()


def test_state_is_kept_and_gpus_come_and_go(tmp_path: Path) -> None:
    both = [SimulatedGpu("a", "A100-SXM4-80GB", A100), SimulatedGpu("h", "H100 PCIe", H100)]
    put_back = SimulatedGpus(tmp_path, both).install()
    nvml = NvmlGpus()
    _carve_mode(nvml, H100)
    nvml.create_instance(H100, 19, Placement(6, 1))
    nvml.close()
    put_back()
    put_back = SimulatedGpus(tmp_path, both[1:], framework=VgpuFramework.VENDOR_VFIO).install()
    nvml = NvmlGpus()
    try:
        (left,) = nvml.gpus()
        assert left.pci_address == H100 and [item.placement.start for item in left.instances] == [6]
    finally:
        nvml.close()
        put_back()


# ---------------------------------------------------------------- permission
def test_a_plain_user_may_look_but_not_carve(tmp_path: Path) -> None:
    gpus_ = [SimulatedGpu("a", "A100-SXM4-80GB", A100)]
    put_back = SimulatedGpus(tmp_path, gpus_).install()
    nvml = NvmlGpus()
    _carve_mode(nvml)
    nvml.close()
    put_back()
    put_back = SimulatedGpus(tmp_path, gpus_, root=False).install()
    nvml = NvmlGpus()
    try:
        (gpu,) = nvml.gpus()
        assert gpu.profiles and all(profile.placements is None for profile in gpu.profiles)
        for refused in (
            lambda: nvml.set_mig_mode(A100, enabled=False),
            lambda: nvml.create_instance(A100, 19, Placement(0, 1)),
            lambda: nvml.instances(A100),
            lambda: nvml.remaining_capacity(A100, 19),
        ):
            with pytest.raises(GpuPermissionError, match="no permission") as caught:
                refused()
            assert "root" in caught.value.fix
    finally:
        nvml.close()
        put_back()


_CARVER = """
import sys
from pathlib import Path
from emulator.adapters.nvidia.nvml import NvmlGpus
from emulator.adapters.simulated.gpus import SimulatedGpus
from emulator.gpu.model import Placement
from emulator.gpu.errors import GpuNoRoomError

SimulatedGpus(Path(sys.argv[1])).install()
nvml = NvmlGpus()
for start in range(7):
    try:
        nvml.create_instance("0000:41:00.0", 19, Placement(start, 1))
        print(start)
    except GpuNoRoomError:
        pass
"""


def test_processes_that_carve_the_same_slices_share_them_out(tmp_path: Path) -> None:
    put_back = SimulatedGpus(tmp_path, [SimulatedGpu("a", "A100-SXM4-80GB", A100)]).install()
    nvml = NvmlGpus()
    try:
        _carve_mode(nvml)
        argv = [sys.executable, "-c", _CARVER, str(tmp_path)]
        runs = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        got = [int(word) for run in runs for word in run.communicate(timeout=PATIENCE)[0].split()]
        assert [run.returncode for run in runs] == [0, 0]
        assert sorted(got) == list(range(7))
        assert [item.placement.start for item in nvml.instances(A100)] == list(range(7))
    finally:
        nvml.close()
        put_back()


def test_56_slices_leave_the_state_small(tmp_path: Path) -> None:
    """Each change writes the whole state, so its size bounds the cost of carving."""
    addresses = [f"0000:{bus:02x}:00.0" for bus in range(0x41, 0x49)]
    made = SimulatedGpus(tmp_path, [SimulatedGpu(item, "H100 80GB HBM3", item) for item in addresses])
    put_back = made.install()
    nvml = NvmlGpus()
    try:
        for address in addresses:
            _carve_mode(nvml, address)
            for start in range(7):
                nvml.create_instance(address, 19, Placement(start, 1))
        assert sum(len(gpu.instances) for gpu in nvml.gpus()) == 56
        assert (tmp_path / "gpus.json").stat().st_size < 16_000
    finally:
        nvml.close()
        put_back()
