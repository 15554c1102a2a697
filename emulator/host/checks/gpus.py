"""NVIDIA GPUs: present, not taken by nouveau, with the right kind of driver, and free."""

from __future__ import annotations

from collections.abc import Iterator

from emulator.gpu.ports import VgpuFramework
from emulator.host.checks.gpu_binding import UNUSED, VFIO_PCI, asked_for, check_binding, check_framebuffer
from emulator.host.checks.gpu_holders import NO_GPU, check_holders
from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.readings import DriverKind, HostReadings, PciGpu

_FRAMEWORKS = {
    VgpuFramework.MDEV: "mediated devices",
    VgpuFramework.VENDOR_VFIO: "vendor VFIO (no mdev)",
    VgpuFramework.NONE: "no vGPUs",
}
_SERVICES = ("nvidia-vgpu-mgr", "nvidia-vgpud")


def check_gpus(host: HostReadings, wanted: Wanted) -> Iterator[HostCheckResult]:
    """Checks of the GPUs; on a host without one they pass, unless the lab asks for one."""
    yield _gpus(host, wanted)
    yield _nouveau(host, wanted)
    yield check_binding(host, wanted)
    yield _driver(host, wanted)
    yield _vgpu(host, wanted)
    yield _sriov(host, wanted)
    yield check_holders(host, wanted)
    yield check_framebuffer(host, wanted)


def _level(wanted: Wanted) -> Level:
    return Level.FAIL if wanted.gpus else Level.WARN


def _gpus(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "gpu.boards", "NVIDIA GPUs"
    why = "nodes with real GPUs get these; with `backend: simulated` none is needed"
    there = {gpu.pci.address for gpu in host.gpus}
    listed = ", ".join(f"{gpu.name} at {gpu.pci.address}" for gpu in host.gpus) or "none"
    missing = [f"{name} ({address})" for name, address in wanted.devices if address not in there]
    if missing:
        fix = "set pci_address to what `lspci -D -d 10de:` prints, or gpu_allocation.backend: simulated"
        return HostCheckResult(
            id_, title, Level.FAIL, f"{', '.join(missing)} of the lab file not found; this host has {listed}", why, fix
        )
    return ok(id_, title, listed, why)


def _nouveau(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "gpu.nouveau", "nouveau"
    why = "nouveau takes the GPUs at boot, and then neither NVIDIA's driver nor vfio-pci can"
    loaded = "nouveau" in host.kernel.loaded
    place = host.kernel.blacklisted.get("nouveau")
    fix = "hyperscaler host prepare --gpus (it blacklists nouveau and renews the initramfs), then reboot"
    if loaded:
        where = f"loaded, although blacklisted by {place}" if place else "loaded, and not blacklisted"
        if place:
            fix = "update-initramfs -u, then reboot: the initramfs is older than the blacklist"
        level = _level(wanted) if host.gpus else Level.WARN
        return HostCheckResult(id_, title, level, where, why, fix)
    if place:
        return ok(id_, title, f"not loaded, blacklisted by {place}", why)
    if host.gpus:
        return HostCheckResult(id_, title, Level.WARN, "not loaded now, and not blacklisted", why, fix)
    return ok(id_, title, f"not loaded; {NO_GPU}", why)


def _driver(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "gpu.driver", "NVIDIA driver"
    why = "slices need NVIDIA's vGPU host driver (Virtual GPU Manager); whole GPUs need only vfio-pci"
    driver = host.driver
    manual = "install the vGPU host driver by hand: `hyperscaler host prepare --dry-run` lists the steps"
    if driver is None:
        if not host.gpus and not wanted.gpus:
            return ok(id_, title, f"none; {NO_GPU}", why)
        if wanted.slices:
            return HostCheckResult(id_, title, Level.FAIL, "not loaded, and the lab asks for slices", why, manual)
        if wanted.whole and all(gpu.pci.driver in UNUSED for gpu in asked_for(host, wanted)):
            return ok(id_, title, "none, and the lab needs none: its GPUs go to guests whole, from vfio-pci", why)
        if not wanted.lab and all(gpu.pci.driver == VFIO_PCI for gpu in host.gpus):
            return ok(id_, title, "none: vfio-pci has the GPUs, which can go to guests whole", why)
        fix = "apt-get install nvidia-driver (component non-free), or leave the GPUs to vfio-pci"
        return HostCheckResult(id_, title, Level.WARN, "not loaded", why, fix)
    kind = "vGPU host" if driver.kind is DriverKind.VGPU_HOST else "data-centre"
    modules = "open kernel modules" if driver.open_modules else "proprietary kernel modules"
    found = f"{driver.version or 'unknown version'}, {kind} driver, {modules}"
    if wanted.slices and driver.kind is not DriverKind.VGPU_HOST:
        return HostCheckResult(id_, title, Level.FAIL, f"{found}: it makes no vGPUs", why, manual)
    return ok(id_, title, found, why)


def _vgpu(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "gpu.vgpu", "vGPU framework"
    why = "a slice goes to its guest as a vGPU, made through one of two frameworks; which one depends on the kernel"
    if not host.gpus:
        return ok(id_, title, NO_GPU, why)
    found = "; ".join(f"{gpu.pci.address}: {_FRAMEWORKS[gpu.framework]}" for gpu in host.gpus)
    offers = any(gpu.framework is not VgpuFramework.NONE for gpu in host.gpus)
    if not offers:
        if not wanted.slices:
            return ok(id_, title, found, why)
        fix = "see NVIDIA driver; for SR-IOV GPUs also: /usr/lib/nvidia/sriov-manage -e ALL"
        return HostCheckResult(id_, title, Level.FAIL, found, why, fix)
    silent = [name for name in _SERVICES if name not in host.processes and not host.processes_hidden]
    if silent and wanted.slices:
        fix = f"systemctl enable --now {' '.join(silent)}"
        return HostCheckResult(id_, title, Level.WARN, f"{found}; not running: {' and '.join(silent)}", why, fix)
    return ok(id_, title, found, why)


def _sriov(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "gpu.sriov", "SR-IOV"
    why = "from Ampere on each vGPU sits on a virtual function (VF) of its GPU"
    if not host.gpus:
        return ok(id_, title, NO_GPU, why)
    found = "; ".join(_functions(gpu) for gpu in host.gpus)
    able = [gpu for gpu in host.gpus if gpu.pci.totalvfs]
    if not wanted.slices:
        return ok(id_, title, found, why)
    if not able:
        # GPUs before Ampere have mediated devices on the physical function.
        if any(gpu.framework is VgpuFramework.MDEV for gpu in host.gpus):
            return ok(id_, title, found, why)
        fix = "switch SR-IOV and Above 4G Decoding on in the firmware: systemctl reboot --firmware-setup"
        return HostCheckResult(id_, title, Level.FAIL, found, why, fix)
    if not host.sriov_manage and not any(gpu.pci.numvfs for gpu in able):
        fix = "install the vGPU host driver, which brings /usr/lib/nvidia/sriov-manage"
        return HostCheckResult(id_, title, Level.FAIL, f"{found}; sriov-manage is not installed", why, fix)
    return ok(id_, title, found, why)


def _functions(gpu: PciGpu) -> str:
    pci = gpu.pci
    return f"{pci.address}: {pci.numvfs} of {pci.totalvfs} VFs" if pci.totalvfs else f"{pci.address}: none offered"
