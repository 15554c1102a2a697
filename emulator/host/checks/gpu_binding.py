"""The kernel driver of each GPU, and the GPU that the firmware's console is on."""

from __future__ import annotations

from shlex import quote

from emulator.host.checks.gpu_holders import NO_GPU
from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.readings import HostReadings, PciGpu

NVIDIA, NOUVEAU, VFIO_PCI = "nvidia", "nouveau", "vfio-pci"
# nouveau has a check of its own.
_EXPECTED = frozenset({None, NVIDIA, NOUVEAU, VFIO_PCI})
UNUSED = frozenset({None, VFIO_PCI})
"""Drivers with which a GPU can go to a guest as a whole without NVIDIA's driver."""


def asked_for(host: HostReadings, wanted: Wanted) -> list[PciGpu]:
    """The GPUs of the host that the lab file lists."""
    addresses = {address for _, address in wanted.devices}
    return [gpu for gpu in host.gpus if gpu.pci.address in addresses]


def check_binding(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    """The driver of each GPU. A lab that asks only for slices needs NVIDIA's driver on each of its GPUs."""
    id_, title = "gpu.binding", "GPUs' drivers"
    why = "NVIDIA's driver makes slices, and vfio-pci gives whole GPUs to guests; another driver prevents both"
    if not host.gpus:
        return ok(id_, title, NO_GPU, why)
    found = "; ".join(f"{gpu.pci.address}: {gpu.pci.driver or 'none'}" for gpu in host.gpus)
    asked = asked_for(host, wanted)
    if wanted.slices and not wanted.whole and host.driver is not None:
        uncut = [gpu for gpu in asked if gpu.pci.driver != NVIDIA and gpu.pci.address not in wanted.own_gpus]
        if uncut:
            named = "; ".join(f"{gpu.pci.address} is with {gpu.pci.driver or 'no driver'}" for gpu in uncut)
            return HostCheckResult(id_, title, Level.FAIL, f"{named}, and slices need {NVIDIA}", why, _bind_fix(uncut))
    others = [gpu for gpu in host.gpus if gpu.pci.driver not in _EXPECTED]
    if others:
        return HostCheckResult(id_, title, Level.WARN, found, why, _unbind_fix(others))
    return ok(id_, title, found, why)


def _bind_fix(gpus: list[PciGpu]) -> str:
    return "; ".join(
        f"{_unbind(gpu)}echo > /sys/bus/pci/devices/{gpu.pci.address}/driver_override; "
        f"echo {gpu.pci.address} > /sys/bus/pci/drivers/{NVIDIA}/bind"
        for gpu in gpus
    )


def _unbind(gpu: PciGpu) -> str:
    address, driver = gpu.pci.address, gpu.pci.driver
    return f"echo {address} > {quote(f'/sys/bus/pci/drivers/{driver}/unbind')}; " if driver else ""


def _unbind_fix(gpus: list[PciGpu]) -> str:
    names = sorted({gpu.pci.driver or "" for gpu in gpus})
    commands = "".join(map(_unbind, gpus)).removesuffix("; ")
    return f"{commands}; and change the setting that gives the GPU to {' and '.join(names)} at boot"


def check_framebuffer(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    """A warning where the firmware's console lies on a GPU that is to go to a guest as a whole."""
    id_, title = "gpu.framebuffer", "GPUs' framebuffer"
    why = "the console reserves part of the GPU's memory, and then QEMU cannot map it into a guest (BAR: can't reserve)"
    on = [gpu for gpu in host.gpus if gpu.framebuffer]
    if not on:
        return ok(id_, title, "on no GPU" if host.gpus else NO_GPU, why)
    found = "; ".join(_console(gpu) for gpu in on)
    if wanted.lab and not (wanted.whole and set(map(_address, on)) & set(map(_address, asked_for(host, wanted)))):
        return ok(id_, title, f"{found}; the lab does not take it as a whole", why)
    fix = (
        "boot with initcall_blacklist=sysfb_init (this machine's screen then stays dark), or make another card the "
        "first one in the firmware's settings"
    )
    return HostCheckResult(id_, title, Level.WARN, found, why, fix)


def _address(gpu: PciGpu) -> str:
    return gpu.pci.address


def _console(gpu: PciGpu) -> str:
    first = ", boot_vga 1" if gpu.pci.boot_vga else ""
    return f"{gpu.pci.address} is the GPU that the firmware's framebuffer is on ({gpu.framebuffer}{first})"
