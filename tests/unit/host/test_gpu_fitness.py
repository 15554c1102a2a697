"""GPUs that cannot serve guests are found before anything is made."""

from __future__ import annotations

import dataclasses

import pytest

from emulator.core.errors import HostNotFitError
from emulator.gpu.catalog import find_gpu
from emulator.gpu.ports import MigModeState, NvmlGpu, PciDevice, VgpuFramework, VirtualizationMode
from emulator.host.gpu_fitness import require_fit, unfit
from emulator.host.gpus import Gpu

# As an H100 that a cloud has handed to a guest reports itself (driver 580.159.04).
GPU = NvmlGpu(
    index=0,
    uuid="GPU-00000000-0000-0000-0000-000000000000",
    name="NVIDIA H100 80GB HBM3",
    pci_address="0000:00:06.0",
    pci_id="10de:2330",
    memory_total_mib=81559,
    memory_used_mib=480,
    minor_number=0,
    mig=MigModeState(current=False, pending=False),
    profiles=(),
    instances=(),
    virtualization=VirtualizationMode.PASSTHROUGH,
    host_vgpu_sriov=False,
    processes=(),
)


def gpu(mode: VirtualizationMode | None, group: int | None) -> Gpu:
    return Gpu(
        pci_address=GPU.pci_address,
        nvml=dataclasses.replace(GPU, virtualization=mode),
        pci=PciDevice(GPU.pci_address, "10de", "2330", "030200", "nvidia", None, group),
        model=find_gpu("h100-sxm-80gb"),
        iommu_group=(),
        framework=VgpuFramework.NONE,
        vfs=(),
        holders=(),
        driver_version="580.159.04",
    )


@pytest.mark.parametrize(
    ("mode", "group", "sliced", "expected"),
    [
        (VirtualizationMode.PASSTHROUGH, None, True, "this machine is itself a guest"),
        (VirtualizationMode.PASSTHROUGH, None, False, "in no IOMMU group"),
        (VirtualizationMode.PASSTHROUGH, 3, False, None),
        (VirtualizationMode.VGPU_GUEST, 3, False, "virtualisation mode vgpu_guest"),
        (VirtualizationMode.NONE, None, False, "in no IOMMU group"),
        (VirtualizationMode.NONE, 3, True, "offers no vGPUs of GPU-0 .* it is the data-centre driver"),
        (None, 3, True, r"virtualisation mode not told"),
        (VirtualizationMode.NONE, 3, False, None),
        (VirtualizationMode.HOST_VGPU, 3, True, None),
        (VirtualizationMode.HOST_VGPU, None, True, "in no IOMMU group"),
    ],
)
def test_what_keeps_a_gpu_from_guests(
    mode: VirtualizationMode | None, group: int | None, sliced: bool, expected: str | None
) -> None:
    seen = gpu(mode, group)
    if expected is None:
        assert unfit("GPU-0", seen, sliced=sliced) is None
        require_fit({("GPU-0", sliced)}, {"GPU-0": seen})
        return
    with pytest.raises(HostNotFitError, match=expected) as caught:
        require_fit({("GPU-0", sliced)}, {"GPU-0": seen})
    assert "NVIDIA H100 80GB HBM3 at 0000:00:06.0" in caught.value.what
    assert caught.value.fix


def test_a_gpu_that_is_away_at_a_guest_was_fit() -> None:
    away = dataclasses.replace(gpu(None, None), nvml=None)
    assert unfit("GPU-0", away, sliced=False) is None


def test_all_gpus_are_named_at_once() -> None:
    gpus = {"GPU-0": gpu(VirtualizationMode.NONE, None), "GPU-1": gpu(VirtualizationMode.NONE, 4)}
    with pytest.raises(HostNotFitError) as caught:
        require_fit({("GPU-0", False), ("GPU-1", True)}, gpus)
    assert "GPU-0" in caught.value.what and "GPU-1" in caught.value.what
