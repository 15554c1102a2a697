"""Joining NVML and sysfs, and the lab file against what was found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.adapters.nvidia.nvml import NvmlGpus
from emulator.adapters.nvidia.passthrough import VfioPassthrough
from emulator.adapters.nvidia.pci_sysfs import SysfsPci
from emulator.adapters.nvidia.sriov import SriovManage
from emulator.adapters.simulated.gpus import SimulatedGpu, SimulatedGpus, gpu_at
from emulator.adapters.simulated.nvml.store import SimProcess
from emulator.core.errors import HyperscalerError
from emulator.gpu.model import Placement
from emulator.gpu.ports import VgpuFramework
from emulator.host.gpu_json import gpu_record
from emulator.host.gpus import Gpu, check_devices, discover_gpus, require_devices
from emulator.labfile.model import GpuDeviceSpec

A100, GEFORCE = "0000:41:00.0", "0000:c1:00.0"


@pytest.fixture
def gpus(tmp_path: Path) -> Iterator[SimulatedGpus]:
    gpus = [SimulatedGpu("a", "A100-SXM4-80GB", A100), SimulatedGpu("g", "GeForce RTX 4090", GEFORCE)]
    made = SimulatedGpus(tmp_path, gpus)
    put_back = made.install()
    yield made
    put_back()


def _found(gpus: SimulatedGpus) -> tuple[Gpu, ...]:
    nvml = NvmlGpus()
    try:
        return discover_gpus(nvml, SysfsPci(gpus.files))
    finally:
        nvml.close()


def test_a_gpu_is_everything_that_both_sides_know(gpus: SimulatedGpus) -> None:
    SriovManage(gpus.files, gpus.runner).enable(A100)
    with gpus.store.change() as state:
        gpu_at(state, A100).processes.append(SimProcess(900, "nvidia-persistenced", client=True))
    a100, geforce = _found(gpus)
    assert (a100.pci_address, a100.name, a100.driver) == (A100, "NVIDIA A100-SXM4-80GB", "nvidia")
    assert a100.model is not None and a100.model.id == "a100-sxm4-80gb"
    assert len(a100.vfs) == 16 and a100.framework is VgpuFramework.MDEV
    assert [item.name for item in a100.holders] == ["nvidia-persistenced"]
    assert geforce.framework is VgpuFramework.NONE and geforce.vfs == ()
    assert [item.address for item in geforce.iommu_group] == [GEFORCE, "0000:c1:00.1"]
    assert geforce.nvml is not None and geforce.nvml.mig is None


def test_a_gpu_away_with_vfio_is_still_a_gpu_of_the_host(gpus: SimulatedGpus) -> None:
    VfioPassthrough(gpus.files).bind(GEFORCE)
    _, geforce = _found(gpus)
    assert geforce.nvml is None and geforce.driver == "vfio-pci"
    assert geforce.name == "NVIDIA GeForce RTX 4090"


def _spec(**changes: object) -> GpuDeviceSpec:
    facts: dict[str, object] = {
        "id": "GPU-0",
        "pci_address": A100,
        "model": "A100-SXM4-80GB",
        "mig_capable": True,
        "allowed_mig_profiles": ("1g.10gb", "3g.40gb"),
    }
    return GpuDeviceSpec(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_file_that_is_right_differs_in_nothing(gpus: SimulatedGpus) -> None:
    geforce = GpuDeviceSpec("GPU-1", GEFORCE, "GeForce RTX 4090", mig_capable=False)
    assert check_devices((_spec(), geforce), _found(gpus)) == ()
    require_devices((_spec(), geforce), _found(gpus))


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"pci_address": "0000:99:00.0"}, "pci_address", "the host has NVIDIA A100-SXM4-80GB at 0000:41:00.0"),
        ({"model": "A100-SXM4-40GB", "allowed_mig_profiles": ()}, "model", "the host has NVIDIA A100-SXM4-80GB"),
        ({"model": "Voodoo 2"}, "model", "the host has NVIDIA A100-SXM4-80GB"),
        ({"mig_capable": False}, "mig_capable", "the GPU has MIG"),
        ({"allowed_mig_profiles": ("1g.5gb",)}, "allowed_mig_profiles", "the GPU offers 1g.10gb"),
    ],
)
def test_each_difference_is_named(gpus: SimulatedGpus, changes: dict[str, object], field: str, message: str) -> None:
    (difference,) = check_devices((_spec(**changes),), _found(gpus))
    assert (difference.device, difference.field) == ("GPU-0", field)
    assert message in str(difference)
    assert difference.fix


def test_all_differences_are_reported_at_once(gpus: SimulatedGpus) -> None:
    wrong = _spec(mig_capable=False, model="A30", allowed_mig_profiles=("1g.6gb", "2g.12gb"))
    assert len(check_devices((wrong,), _found(gpus))) == 4
    with pytest.raises(HyperscalerError, match=r"1g\.6gb.*2g\.12gb"):
        require_devices((wrong,), _found(gpus))


def test_a_gpu_that_nvml_does_not_see_is_reported(gpus: SimulatedGpus) -> None:
    VfioPassthrough(gpus.files).bind(A100)
    (difference,) = check_devices((_spec(),), _found(gpus))
    assert "NVML does not see the GPU there (driver vfio-pci)" in str(difference)
    assert check_devices((_spec(),), _found(gpus), out=(A100,)) == ()


def test_a_gpu_that_cannot_be_cut_needs_no_nvml(gpus: SimulatedGpus) -> None:
    VfioPassthrough(gpus.files).bind(GEFORCE)
    spec = GpuDeviceSpec("GPU-1", GEFORCE, "GeForce RTX 4090", mig_capable=False)
    assert check_devices((spec,), _found(gpus)) == ()
    (difference,) = check_devices((dataclasses.replace(spec, model="GeForce RTX 3090"),), _found(gpus))
    assert difference.field == "model"


def test_a_gpu_as_json(gpus: SimulatedGpus) -> None:
    nvml = NvmlGpus()
    nvml.set_mig_mode(A100, enabled=True)
    nvml.create_instance(A100, 9, Placement(4, 4))
    nvml.close()
    VfioPassthrough(gpus.files).bind(GEFORCE)
    a100, geforce = json.loads(json.dumps([gpu_record(gpu) for gpu in _found(gpus)]))
    assert a100["nvml"]["mig_mode"] == {"current": True, "pending": True}
    assert [(item["profile"], item["start"]) for item in a100["nvml"]["instances"]] == [("3g.40gb", 4)]
    assert {item["name"]: item["starts"] for item in a100["nvml"]["profiles"]}["2g.20gb"] == [0, 2, 4]
    assert geforce["nvml"] is None and geforce["driver"] == "vfio-pci"
    assert [item["driver"] for item in geforce["iommu_group_members"]] == ["vfio-pci", "vfio-pci"]
