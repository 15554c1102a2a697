"""vGPUs in both frameworks: what a `VgpuHost` must do, over the simulated sysfs."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid5

import pytest

from emulator.adapters.nvidia.nvml import NvmlGpus
from emulator.adapters.nvidia.pci_sysfs import SysfsPci
from emulator.adapters.nvidia.sriov import SriovManage
from emulator.adapters.nvidia.vgpu_mdev import MdevHost
from emulator.adapters.nvidia.vgpu_vfio import VendorVfioHost
from emulator.adapters.simulated.gpus import SimulatedGpu, SimulatedGpus, gpu_at
from emulator.core.errors import CommandError, GpuError
from emulator.core.ids import NAMESPACE
from emulator.gpu.errors import (
    GpuBusyError,
    GpuDriverError,
    GpuLostError,
    GpuNoRoomError,
    GpuNotFoundError,
    GpuNotSupportedError,
)
from emulator.gpu.model import Placement
from emulator.gpu.ports import VgpuDevice, VgpuFramework, VgpuHost, VgpuRequest
from emulator.host.gpus import Unavailable, why_unavailable

PF = "0000:41:00.0"
SMALL, HALF = "A100DX-1-10C", "A100DX-3-40C"


def _uuid(name: str) -> UUID:
    return uuid5(NAMESPACE, name)


@dataclass
class Machine:
    """A simulated machine with one A100, and the adapters over it."""

    gpus: SimulatedGpus
    nvml: NvmlGpus
    host: VgpuHost
    sriov: SriovManage

    def prepare(self) -> tuple[str, ...]:
        """MIG on, VFs on; returns their addresses."""
        self.nvml.set_mig_mode(PF, enabled=True)
        return self.enable()

    def enable(self) -> tuple[str, ...]:
        with self.nvml.released():
            return self.sriov.enable(PF)

    def disable(self) -> None:
        with self.nvml.released():
            self.sriov.disable(PF)

    def hold(self, parent: str) -> None:
        with self.gpus.store.change() as state:
            for item in gpu_at(state, PF).vgpus:
                item.held = item.held or item.parent == parent


@pytest.fixture(params=[VgpuFramework.MDEV, VgpuFramework.VENDOR_VFIO], ids=str)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    gpus = SimulatedGpus(tmp_path, [SimulatedGpu("a", "A100-SXM4-80GB", PF)], framework=request.param)
    put_back = gpus.install()
    nvml = NvmlGpus()
    host: VgpuHost = MdevHost(gpus.files) if request.param is VgpuFramework.MDEV else VendorVfioHost(gpus.files)
    yield Machine(gpus, nvml, host, SriovManage(gpus.files, gpus.runner, sleep=lambda _: None))
    nvml.close()
    put_back()


def test_the_framework_is_found_by_its_files(machine: Machine) -> None:
    pci = SysfsPci(machine.gpus.files)
    assert pci.framework(PF) is VgpuFramework.NONE
    assert machine.host.parents(PF) == ()
    machine.prepare()
    assert pci.framework(PF) is machine.host.framework


def test_a_vgpu_comes_and_goes(machine: Machine) -> None:
    vfs = machine.prepare()
    machine.nvml.create_instance(PF, 19, Placement(0, 1))
    made = machine.host.create(VgpuRequest(vfs[2], SMALL, _uuid("one")))
    assert (made.parent, made.type_name, made.type_id) == (vfs[2], SMALL, 622)
    assert machine.host.devices() == (made,)
    carrying = [parent for parent in machine.host.parents(PF) if parent.devices]
    assert [parent.address for parent in carrying] == [vfs[2]]
    assert machine.host.remove(made) is True
    assert machine.host.remove(made) is False
    assert machine.host.devices() == ()


def test_only_types_with_a_free_instance_can_be_created(machine: Machine) -> None:
    vfs = machine.prepare()
    assert all(parent.creatable == {} for parent in machine.host.parents(PF))
    machine.nvml.create_instance(PF, 19, Placement(0, 1))
    machine.nvml.create_instance(PF, 9, Placement(4, 4))
    assert set(machine.host.parents(PF)[0].creatable) == {SMALL, HALF}
    machine.host.create(VgpuRequest(vfs[0], HALF, _uuid("half")))
    assert set(machine.host.parents(PF)[1].creatable) == {SMALL}
    assert machine.host.parents(PF)[0].creatable == {}
    with pytest.raises(GpuNoRoomError, match=HALF):
        machine.host.create(VgpuRequest(vfs[1], HALF, _uuid("other")))


def test_a_taken_function_is_recognised(machine: Machine) -> None:
    vfs = machine.prepare()
    for start in (0, 1):
        machine.nvml.create_instance(PF, 19, Placement(start, 1))
    machine.host.create(VgpuRequest(vfs[0], SMALL, _uuid("one")))
    with pytest.raises(GpuBusyError, match="carries a vGPU already"):
        machine.host.create(VgpuRequest(vfs[0], SMALL, _uuid("two")))


def test_the_meanings_of_unavailable_are_distinguished(machine: Machine) -> None:
    vfs = machine.enable()

    def why(wanted: str, parent: str) -> Unavailable:
        (gpu,) = machine.nvml.gpus()
        return why_unavailable(wanted, gpu, machine.host.parents(PF), parent)

    assert why(SMALL, vfs[0]) is Unavailable.MIG_MODE_OFF
    machine.nvml.set_mig_mode(PF, enabled=True)
    assert why(SMALL, vfs[0]) is Unavailable.NO_INSTANCE
    assert why("A100DX-10C", vfs[0]) is Unavailable.MIG_MODE_ON
    assert why("A100D-1-10C", vfs[0]) is Unavailable.NO_SUCH_TYPE
    machine.nvml.create_instance(PF, 19, Placement(0, 1))
    machine.host.create(VgpuRequest(vfs[0], SMALL, _uuid("one")))
    assert why(SMALL, vfs[0]) is Unavailable.PARENT_TAKEN
    assert why(SMALL, vfs[1]) is Unavailable.NO_FREE_INSTANCE


def test_time_sliced_vgpus_are_of_one_kind(machine: Machine) -> None:
    vfs = machine.enable()
    assert "A100DX-40C" in machine.host.parents(PF)[0].creatable
    for number in (0, 1):
        machine.host.create(VgpuRequest(vfs[number], "A100DX-40C", _uuid(str(number))))
    assert all(parent.creatable == {} for parent in machine.host.parents(PF))  # two of 40 GB are all


def test_an_instance_below_a_vgpu_stays(machine: Machine) -> None:
    vfs = machine.prepare()
    machine.nvml.create_instance(PF, 19, Placement(0, 1))
    machine.host.create(VgpuRequest(vfs[0], SMALL, _uuid("one")))
    with pytest.raises(GpuBusyError):
        machine.nvml.destroy_instance(PF, 19, 0)


def test_a_vgpu_held_by_a_domain_is_asked_for_before_any_write(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vfs = machine.prepare()
    machine.nvml.create_instance(PF, 19, Placement(0, 1))
    made = machine.host.create(VgpuRequest(vfs[0], SMALL, _uuid("one")))
    machine.hold(vfs[0])

    def no_write(path: str, text: str, *, timeout: float = 10.0) -> None:
        raise AssertionError(f"{text!r} was written to {path}, which blocks on a real host")

    monkeypatch.setattr(machine.gpus.files, "write", no_write)
    with pytest.raises(GpuBusyError, match="/dev/vfio/"):
        machine.host.remove(made)


@pytest.mark.parametrize(
    ("number", "mdev", "vendor"),
    [
        (errno.EPERM, "root", "EPERM"),
        (errno.EIO, "refused to create", "no free GPU instance"),
        (errno.ENODEV, "went away", "went away"),
        (errno.EINVAL, "refused to create", "does not know the type"),
        (errno.ENOSPC, "0 available instances", "refused to create"),
    ],
)
def test_errors_of_the_driver_are_explained(machine: Machine, number: int, mdev: str, vendor: str) -> None:
    vfs = machine.prepare()
    machine.nvml.create_instance(PF, 19, Placement(0, 1))
    with machine.gpus.store.change() as state:
        state.faults.vgpu_errno = number
    with pytest.raises(GpuError, match=mdev if machine.host.framework is VgpuFramework.MDEV else vendor):
        machine.host.create(VgpuRequest(vfs[0], SMALL, _uuid("one")))
    assert machine.host.devices() == ()


def test_no_vgpu_without_virtual_functions(machine: Machine) -> None:
    with pytest.raises(GpuNotFoundError, match="carries no"):
        machine.host.create(VgpuRequest(PF, SMALL, _uuid("one")))


# ---------------------------------------------------------------- sriov-manage
def test_enabling_functions_erases_instances_and_is_done_once(machine: Machine) -> None:
    machine.nvml.set_mig_mode(PF, enabled=True)
    machine.nvml.create_instance(PF, 19, Placement(0, 1))
    vfs = machine.enable()
    assert len(vfs) == 16 and vfs[0] == "0000:41:00.4" and vfs[4] == "0000:41:01.0"
    assert machine.nvml.instances(PF) == ()
    machine.nvml.create_instance(PF, 19, Placement(0, 1))
    machine.host.create(VgpuRequest(vfs[0], SMALL, _uuid("one")))
    assert machine.enable() == vfs  # a second run under a live vGPU would lose the GPU
    assert len(machine.nvml.instances(PF)) == 1


def test_running_the_script_under_live_vgpus_loses_the_gpu(machine: Machine) -> None:
    vfs = machine.prepare()
    machine.nvml.create_instance(PF, 19, Placement(0, 1))
    machine.host.create(VgpuRequest(vfs[0], SMALL, _uuid("one")))
    with pytest.raises(CommandError, match="unbind failed"):
        machine.disable()
    with pytest.raises(GpuLostError):
        machine.nvml.mig_mode(PF)


def test_exit_0_that_did_nothing_is_an_error(machine: Machine) -> None:
    with machine.gpus.store.change() as state:
        state.faults.sriov_silent = True
    with pytest.raises(GpuDriverError, match="no virtual function appeared"):
        machine.enable()


@pytest.mark.parametrize(("failures", "works"), [(2, True), (4, True), (5, False)])
def test_passing_failures_are_tried_again(machine: Machine, failures: int, works: bool) -> None:
    with machine.gpus.store.change() as state:
        state.faults.sriov_flaky = failures
    if works:
        assert len(machine.enable()) == 16
    else:
        with pytest.raises(CommandError, match="unbindLock"):
            machine.enable()


def test_an_open_nvml_keeps_the_driver_from_letting_go(machine: Machine) -> None:
    """As on hardware, where NVML has /dev/nvidia0 open for as long as it is initialised."""
    assert machine.nvml.gpus()
    with pytest.raises(CommandError, match="unbindLock"):
        machine.sriov.enable(PF)
    assert len(machine.enable()) == 16


def test_a_gpu_without_sriov_says_so(tmp_path: Path) -> None:
    gpus = SimulatedGpus(tmp_path, [SimulatedGpu("q", "Quadro RTX 6000", PF)])
    with pytest.raises(GpuNotSupportedError, match="no SR-IOV"):
        SriovManage(gpus.files, gpus.runner).enable(PF)


def test_mig_cannot_go_off_under_virtual_functions(machine: Machine) -> None:
    machine.prepare()
    with pytest.raises(GpuBusyError):
        machine.nvml.set_mig_mode(PF, enabled=False)
    machine.disable()
    machine.nvml.set_mig_mode(PF, enabled=False)


def test_a_reboot_takes_functions_and_vgpus(machine: Machine) -> None:
    vfs = machine.prepare()
    machine.nvml.create_instance(PF, 19, Placement(0, 1))
    machine.host.create(VgpuRequest(vfs[0], SMALL, _uuid("one")))
    machine.gpus.reboot()
    assert machine.host.devices() == () and machine.host.parents(PF) == ()
    device = SysfsPci(machine.gpus.files).device(PF)
    assert device is not None and device.numvfs == 0


# ---------------------------------------------------------------- mdev alone
def test_old_gpus_carry_mdevs_on_the_physical_function(tmp_path: Path) -> None:
    gpus = SimulatedGpus(tmp_path, [SimulatedGpu("q", "Quadro RTX 6000", PF)], framework=VgpuFramework.MDEV)
    host = MdevHost(gpus.files)
    (parent,) = host.parents(PF)
    assert parent.address == PF and parent.creatable == {"RTX6000-1Q": 256, "RTX6000-2Q": 257, "RTX6000-3Q": 258}
    for number in range(8):
        host.create(VgpuRequest(PF, "RTX6000-3Q", _uuid(str(number))))
    with pytest.raises(GpuBusyError, match="carries a vGPU already"):
        host.create(VgpuRequest(PF, "RTX6000-3Q", _uuid("one too many")))


def test_a_taken_uuid_is_reported(tmp_path: Path) -> None:
    gpus = SimulatedGpus(tmp_path, [SimulatedGpu("q", "Quadro RTX 6000", PF)], framework=VgpuFramework.MDEV)
    host = MdevHost(gpus.files)
    made = host.create(VgpuRequest(PF, "RTX6000-1Q", _uuid("one")))
    assert made == VgpuDevice(VgpuFramework.MDEV, PF, 256, "RTX6000-1Q", _uuid("one"))
    with pytest.raises(GpuBusyError, match="the UUID is taken by a vGPU of type RTX6000-1Q"):
        host.create(VgpuRequest(PF, "RTX6000-1Q", _uuid("one")))


def test_the_kernels_odd_reading_of_uuids_is_simulated(tmp_path: Path) -> None:
    """The 37th character is ignored and an empty write does nothing: why only UUID objects are written."""
    gpus = SimulatedGpus(tmp_path, [SimulatedGpu("q", "Quadro RTX 6000", PF)], framework=VgpuFramework.MDEV)
    create = f"/sys/class/mdev_bus/{PF}/mdev_supported_types/nvidia-256/create"
    gpus.files.write(create, "")
    with pytest.raises(OSError) as caught:
        gpus.files.write(create, "not-a-uuid")
    assert caught.value.errno == errno.EINVAL
    gpus.files.write(create, f"{_uuid('one')}f")
    assert [item.uuid for item in MdevHost(gpus.files).devices()] == [_uuid("one")]


def test_graphics_slices_are_shared_by_vgpus_of_one_type(tmp_path: Path) -> None:
    """RTX PRO 6000: several vGPUs time-share one `+gfx` slice, all with one framebuffer size."""
    gpus = SimulatedGpus(
        tmp_path,
        [SimulatedGpu("r", "rtx-pro-6000-blackwell-server", PF)],
        framework=VgpuFramework.VENDOR_VFIO,
    )
    put_back = gpus.install()
    nvml = NvmlGpus()
    try:
        nvml.set_mig_mode(PF, enabled=True)
        with nvml.released():
            vfs = SriovManage(gpus.files, gpus.runner).enable(PF)
        nvml.create_instance(PF, 47, Placement(0, 1))
        host = VendorVfioHost(gpus.files)
        for number in range(3):
            host.create(VgpuRequest(vfs[number], "DC-1-8Q", _uuid(str(number))))
        assert host.parents(PF)[3].creatable == {}
        nvml.create_instance(PF, 47, Placement(1, 1))
        assert {"DC-1-8Q", "DC-1-24C"} <= set(host.parents(PF)[3].creatable)
    finally:
        nvml.close()
        put_back()
