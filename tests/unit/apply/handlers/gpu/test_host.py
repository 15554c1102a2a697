"""Which host devices a handle stands for."""

from __future__ import annotations

from emulator.apply.handlers.gpu.host import hostdevs_of
from emulator.core.ports import Hostdev, HostdevKind
from tests.support.gpu_lab import (
    SECOND,
    GpuLab,
    sliced,
    vgpu_of,
)


def test_a_real_vgpu_is_a_device_and_a_simulated_one_is_not(any_lab: GpuLab) -> None:
    import dataclasses

    wanted = any_lab.wanted(n1=[sliced("a", "1g.10gb", 3)])
    any_lab.apply(wanted)
    handle = any_lab.handle(vgpu_of(wanted).id)
    real = dataclasses.replace(any_lab.host, real=True)
    assert hostdevs_of(lambda: any_lab.host, handle) == ()
    (device,) = hostdevs_of(lambda: real, handle)
    if handle["framework"] == "mdev":
        assert device == Hostdev(HostdevKind.MDEV, vgpu_of(wanted).uuid)
    else:
        assert device == Hostdev(HostdevKind.VFIO_VF, str(handle["parent"]))


def test_a_whole_gpu_is_all_its_functions(lab: GpuLab) -> None:
    import dataclasses

    real = dataclasses.replace(lab.host, real=True)
    assert hostdevs_of(lambda: real, {"endpoints": [SECOND]}) == (Hostdev(HostdevKind.PCI, SECOND),)
    assert hostdevs_of(lambda: real, {"was_enabled": False}) == ()
