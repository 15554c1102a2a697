"""GPUs that cannot serve guests are found before anything is made."""

from __future__ import annotations

import dataclasses

import pytest

from emulator.core.errors import HostNotFitError
from emulator.gpu.catalog import find_gpu
from emulator.gpu.ports import MigModeState, NvmlGpu, PciDevice, VgpuFramework, VirtualizationMode
from emulator.host.gpu_fitness import require_fit, unfit
from emulator.host.gpus import Gpu
from emulator.host.iommu_groups import group_mates

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
        (VirtualizationMode.PASSTHROUGH, None, True, "this host is itself a virtual machine"),
        (VirtualizationMode.PASSTHROUGH, None, False, "in no IOMMU group"),
        (VirtualizationMode.PASSTHROUGH, 3, False, None),
        (VirtualizationMode.VGPU_GUEST, 3, False, "virtualisation mode vgpu_guest"),
        (VirtualizationMode.NONE, None, False, "in no IOMMU group"),
        (VirtualizationMode.NONE, 3, True, "offers no vGPUs of GPU-0 .* it is the data-centre driver"),
        (None, 3, True, r"virtualisation mode not reported"),
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


# ---------------------------------------------------------------- IOMMU groups
SECOND, SWITCH = "0000:00:07.0", "0000:05:00.0"


def member(address: str, class_code: str, driver: str | None) -> PciDevice:
    return PciDevice(address, "10de", "2330", class_code, driver, None, 3)


def grouped(*members: PciDevice) -> Gpu:
    alone = gpu(VirtualizationMode.NONE, 3)
    assert alone.pci is not None
    return dataclasses.replace(alone, iommu_group=(alone.pci, *members))


@pytest.mark.parametrize(
    ("mate", "fit"),
    [
        (member(SWITCH, "068000", "nvidia-nvswitch"), False),
        (member(SWITCH, "060000", "skl_uncore"), False),
        (member(SWITCH, "060400", "pcieport"), True),
        (member(SWITCH, "0c0330", None), True),
        (member(SWITCH, "0c0330", "vfio-pci"), True),
        (member(SWITCH, "020000", "mlx5_vfio_pci"), True),
        (member(SWITCH, "0c0330", "pci-stub"), True),
        (member("0000:00:06.1", "040300", "snd_hda_intel"), True),
    ],
)
def test_what_a_driver_has_of_a_group_keeps_the_gpu_here(mate: PciDevice, fit: bool) -> None:
    reason = unfit("GPU-0", grouped(mate), sliced=False)
    assert (reason is None) is fit
    if reason is not None:
        assert f"shares IOMMU group 3 with {mate.address}" in reason[0]
        assert f"driver {mate.driver}" in reason[0]
    assert unfit("GPU-0", dataclasses.replace(grouped(mate), nvml=None), sliced=False) == reason


def test_gpus_of_one_group_go_to_one_node_only() -> None:
    first = grouped(member(SECOND, "030200", "vfio-pci"))
    together = group_mates({GPU.pci_address: 3, SECOND: 3, "x": None}, {"a": [GPU.pci_address, SECOND], "b": ["x"]})
    assert together == {GPU.pci_address: (SECOND,), SECOND: (GPU.pci_address,)}
    apart = group_mates({GPU.pci_address: 3, SECOND: 3}, {"a": [GPU.pci_address], "b": [SECOND]})
    assert apart == {GPU.pci_address: (), SECOND: ()}
    require_fit({("GPU-0", False)}, {"GPU-0": first}, group_gpus=together, given={*together})
    with pytest.raises(HostNotFitError, match=f"shares IOMMU group 3 with {SECOND}"):
        require_fit({("GPU-0", False)}, {"GPU-0": first}, group_gpus=apart, given={*apart})
