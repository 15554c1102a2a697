"""Whole GPUs to guests and back: what is bound, what is refused, what a failure leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.adapters.nvidia.passthrough import VfioPassthrough
from emulator.adapters.nvidia.pci_sysfs import SysfsPci
from emulator.adapters.nvidia.sriov import SriovManage
from emulator.adapters.simulated.gpus import SimulatedGpu, SimulatedGpus, gpu_at
from emulator.adapters.simulated.nvml.store import SimFunction, SimProcess
from emulator.adapters.system.host_files import HostFiles
from emulator.core.errors import GpuError
from emulator.gpu.errors import GpuBusyError, GpuDriverError, GpuNotFoundError, GpuNotSupportedError

GEFORCE, AUDIO = "0000:c1:00.0", "0000:c1:00.1"
A100 = "0000:41:00.0"


@pytest.fixture
def gpus(tmp_path: Path) -> SimulatedGpus:
    gpus = [SimulatedGpu("g", "GeForce RTX 4090", GEFORCE), SimulatedGpu("a", "A100-SXM4-80GB", A100)]
    return SimulatedGpus(tmp_path, gpus)


def _drivers(gpus: SimulatedGpus, *addresses: str) -> list[str | None]:
    pci = SysfsPci(gpus.files)
    found = [pci.device(address) for address in addresses]
    return [device.driver if device else "absent" for device in found]


def _neighbour(gpus: SimulatedGpus, address: str, class_code: str, driver: str, **more: str) -> None:
    with gpus.store.change() as state:
        group = gpu_at(state, GEFORCE).group
        state.functions.append(SimFunction(address, "8086", "1572", class_code, group, driver, **more))


def test_gpu_and_audio_go_together_and_come_back(gpus: SimulatedGpus) -> None:
    control = VfioPassthrough(gpus.files)
    assert control.bind(GEFORCE) == (GEFORCE, AUDIO)
    assert _drivers(gpus, GEFORCE, AUDIO, A100) == ["vfio-pci", "vfio-pci", "nvidia"]
    assert control.bind(GEFORCE) == (GEFORCE, AUDIO)  # again: nothing to do
    control.release(GEFORCE)
    assert _drivers(gpus, GEFORCE, AUDIO) == ["nvidia", "snd_hda_intel"]
    device = SysfsPci(gpus.files).device(GEFORCE)
    assert device is not None and device.driver_override is None
    control.release(GEFORCE)
    assert _drivers(gpus, GEFORCE, AUDIO) == ["nvidia", "snd_hda_intel"]


@pytest.mark.parametrize(
    ("class_code", "driver", "more", "message"),
    [
        ("010802", "nvme", {}, "a disk controller of the host: 0000:c2:00.0, driver nvme"),
        ("020000", "ixgbe", {"net": "eno1"}, r"a network interface of the host.*in use as eno1"),
        ("0c0330", "xhci_hcd", {}, "a USB or serial bus controller"),
    ],
)
def test_a_group_with_a_device_of_the_host_is_refused(
    gpus: SimulatedGpus, class_code: str, driver: str, more: dict[str, str], message: str
) -> None:
    _neighbour(gpus, "0000:c2:00.0", class_code, driver, **more)
    with pytest.raises(GpuNotSupportedError, match=message):
        VfioPassthrough(gpus.files).bind(GEFORCE)
    assert _drivers(gpus, GEFORCE, AUDIO) == ["nvidia", "snd_hda_intel"]


def test_bridges_unbound_and_vfio_members_are_no_obstacle(gpus: SimulatedGpus) -> None:
    _neighbour(gpus, "0000:c0:01.0", "060400", "pcieport")
    _neighbour(gpus, "0000:c2:00.0", "020000", "")
    _neighbour(gpus, "0000:c3:00.0", "020000", "vfio-pci")
    assert VfioPassthrough(gpus.files).endpoints(GEFORCE) == (GEFORCE, AUDIO)


def test_a_gpu_with_virtual_functions_is_refused(gpus: SimulatedGpus) -> None:
    SriovManage(gpus.files, gpus.runner).enable(A100)
    control = VfioPassthrough(gpus.files)
    with pytest.raises(GpuBusyError, match="16 virtual functions") as caught:
        control.bind(A100)
    assert f"sriov-manage -d {A100}" in caught.value.fix
    with pytest.raises(GpuNotSupportedError, match="a virtual function of"):
        control.endpoints("0000:41:00.4")


def test_what_is_no_gpu_is_refused(gpus: SimulatedGpus) -> None:
    _neighbour(gpus, "0000:c0:01.0", "060400", "pcieport")
    control = VfioPassthrough(gpus.files)
    with pytest.raises(GpuNotSupportedError, match="bridge"):
        control.bind("0000:c0:01.0")
    with pytest.raises(GpuNotSupportedError, match="not an NVIDIA GPU"):
        control.bind(AUDIO)
    with pytest.raises(GpuNotFoundError):
        control.bind("0000:99:00.0")


def test_a_held_gpu_is_not_unbound(gpus: SimulatedGpus) -> None:
    with gpus.store.change() as state:
        gpu_at(state, GEFORCE).processes.append(SimProcess(31, "Xorg", client=True))
    with pytest.raises(GpuBusyError, match=r"in use by Xorg \(pid 31\)"):
        VfioPassthrough(gpus.files).bind(GEFORCE)
    assert _drivers(gpus, GEFORCE) == ["nvidia"]


def test_a_gpu_in_a_running_guest_is_not_released(gpus: SimulatedGpus) -> None:
    control = VfioPassthrough(gpus.files)
    control.bind(GEFORCE)
    with gpus.store.change() as state:
        gpu_at(state, GEFORCE).held = True
    with pytest.raises(GpuBusyError, match="/dev/vfio/"):
        control.release(GEFORCE)
    assert _drivers(gpus, GEFORCE, AUDIO) == ["vfio-pci", "vfio-pci"]


@pytest.mark.parametrize("failing", [AUDIO, GEFORCE])
def test_a_failure_half_way_gives_everything_back(
    gpus: SimulatedGpus, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    write = gpus.files.write

    def refuse(path: str, text: str, *, timeout: float = 10.0) -> None:
        if path.endswith("vfio-pci/bind") and text == failing:
            raise OSError(19, "No such device")
        write(path, text, timeout=timeout)

    monkeypatch.setattr(gpus.files, "write", refuse)
    with pytest.raises(GpuDriverError, match="No such device"):
        VfioPassthrough(gpus.files).bind(GEFORCE)
    assert _drivers(gpus, GEFORCE, AUDIO) == ["nvidia", "snd_hda_intel"]
    device = SysfsPci(gpus.files).device(GEFORCE)
    assert device is not None and device.driver_override is None


def test_a_bind_that_succeeds_and_does_nothing_is_an_error(
    gpus: SimulatedGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = gpus.files.write

    def ignore(path: str, text: str, *, timeout: float = 10.0) -> None:
        if not path.endswith("vfio-pci/bind"):
            write(path, text, timeout=timeout)

    monkeypatch.setattr(gpus.files, "write", ignore)
    with pytest.raises(GpuError, match="did not bind the function to vfio-pci"):
        VfioPassthrough(gpus.files).bind(GEFORCE)
    assert _drivers(gpus, GEFORCE, AUDIO) == ["nvidia", "snd_hda_intel"]


def test_two_gpus_of_one_group_go_only_together(gpus: SimulatedGpus) -> None:
    with gpus.store.change() as state:
        gpu_at(state, A100).group = gpu_at(state, GEFORCE).group
    control = VfioPassthrough(gpus.files)
    with pytest.raises(GpuNotSupportedError, match=f"{A100}, driver nvidia"):
        control.bind(GEFORCE)
    assert control.bind(GEFORCE, group_gpus=(A100,)) == (GEFORCE, AUDIO)
    assert control.bind(A100, group_gpus=(GEFORCE,)) == (A100,)
    assert _drivers(gpus, GEFORCE, AUDIO, A100) == ["vfio-pci", "vfio-pci", "vfio-pci"]
    for address in (GEFORCE, A100):
        control.release(address)
    assert _drivers(gpus, GEFORCE, AUDIO, A100) == ["nvidia", "snd_hda_intel", "nvidia"]


def test_mounted_disks_are_named_through_lvm(tmp_path: Path) -> None:
    """Real files: a GPU whose group also holds the NVMe disk below the root file system."""
    root = tmp_path
    listed, group = root / "sys/bus/pci/devices", root / "sys/kernel/iommu_groups/7/devices"
    block = root / "sys/class/block"
    for directory in (listed, group, block, root / "proc", root / "dev/mapper", root / "sys/bus/pci/drivers/vfio-pci"):
        directory.mkdir(parents=True)
    for address, class_code, driver in ((GEFORCE, "0x030000", "nvidia"), ("0000:c2:00.0", "0x010802", "nvme")):
        base = root / "sys/devices/pci0000:c0" / address
        base.mkdir(parents=True)
        (base / "vendor").write_text("0x10de\n")
        (base / "device").write_text("0x2684\n")
        (base / "class").write_text(f"{class_code}\n")
        (base / "driver").symlink_to(f"../../bus/pci/drivers/{driver}")
        (base / "iommu_group").symlink_to("../../../kernel/iommu_groups/7")
        for place in (listed, group):
            (place / address).symlink_to(base)
    (block / "nvme0n1p2").symlink_to("../../devices/pci0000:c0/0000:c2:00.0/nvme/nvme0/nvme0n1/nvme0n1p2")
    (root / "sys/devices/virtual/block/dm-0/slaves/nvme0n1p2").mkdir(parents=True)
    (block / "dm-0").symlink_to("../../devices/virtual/block/dm-0")
    (root / "dev/mapper/vg-root").symlink_to("../dm-0")
    (root / "proc/mounts").write_text("proc /proc proc rw 0 0\n/dev/mapper/vg-root / ext4 rw 0 0\n")
    (root / "proc/swaps").write_text("Filename Type Size Used Priority\n/dev/nvme0n1p2 partition 1 0 -2\n")
    with pytest.raises(GpuNotSupportedError, match=r"0000:c2:00\.0, driver nvme, in use as /, swap"):
        VfioPassthrough(HostFiles(root)).endpoints(GEFORCE)
