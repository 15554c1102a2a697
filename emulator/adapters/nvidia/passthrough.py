"""Whole GPUs for guests: binding to vfio-pci by `driver_override`, and back.

QEMU needs every endpoint of an IOMMU group on a vfio driver or on none. The host must not lose devices that it uses:
libvirt passed a mounted NVMe disk through without a warning, so this module refuses such groups.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Collection

from emulator.adapters.nvidia.pci_sysfs import (
    DEVICES,
    DRIVERS,
    NVIDIA_VENDOR,
    SysfsPci,
    names,
    normal_address,
    read_or,
    slot,
)
from emulator.adapters.nvidia.vfio_group import refuse_busy_group
from emulator.core.errors import GpuError
from emulator.core.ports import log
from emulator.gpu.errors import GpuBusyError, GpuDriverError, GpuNotFoundError, GpuNotSupportedError
from emulator.gpu.ports import FileAccess, PciDevice
from emulator.host.iommu_groups import foreign_members, is_held

VFIO_PCI = "vfio-pci"
_CLASSES = {"01": "a disk controller", "02": "a network interface", "0c": "a USB or serial bus controller"}


class VfioPassthrough:
    """`PassthroughControl` over a `FileAccess`."""

    def __init__(self, files: FileAccess) -> None:
        self._files = files
        self._pci = SysfsPci(files)

    def endpoints(self, address: str, *, group_gpus: Collection[str] = ()) -> tuple[str, ...]:
        return tuple(device.address for device in self._endpoints(address, group_gpus))

    def bind(self, address: str, *, group_gpus: Collection[str] = ()) -> tuple[str, ...]:
        devices = self._endpoints(address, group_gpus)
        if not self._files.exists(f"{DRIVERS}/{VFIO_PCI}"):
            raise GpuDriverError(
                "the kernel module vfio-pci is not loaded", where=f"pci {address}", fix="modprobe vfio-pci"
            )
        self._refuse_held(devices)
        changed: list[PciDevice] = []
        try:
            for device in devices:
                if device.driver != VFIO_PCI:
                    changed.append(device)
                    self._rebind(device.address, VFIO_PCI)
        except GpuError:
            for device in reversed(changed):
                self._restore(device)
            raise
        return tuple(device.address for device in devices)

    def release(self, address: str, *, driver: str = "nvidia") -> None:
        gpu = self._gpu(address)
        devices = self._functions(gpu)
        for device in devices:
            if device.driver == VFIO_PCI and device.iommu_group is not None:
                refuse_busy_group(self._files, str(device.iommu_group), f"pci {device.address}")
        for device in devices:
            if device.driver_override is not None:
                self._write(f"{DEVICES}/{device.address}/driver_override", "\n", device.address)
            if device.driver == VFIO_PCI:
                self._unbind(device.address, VFIO_PCI)
            if device.address == gpu.address:
                self._bind_back(gpu.address, driver)
            elif self._driver(device.address) is None:
                # Succeeds even if no driver takes the function (Linux ABI, sysfs-bus-pci), which is fine here.
                self._write("/sys/bus/pci/drivers_probe", device.address, device.address)

    # ------------------------------------------------------------ what may be taken
    def _gpu(self, address: str) -> PciDevice:
        device = self._pci.device(normal_address(address))
        if device is None:
            raise GpuNotFoundError(
                "there is no such PCI function", where=f"pci {address}", fix="compare with lspci -D -d 10de:"
            )
        return device

    def _functions(self, gpu: PciDevice) -> tuple[PciDevice, ...]:
        """The GPU and the other functions of its slot (audio, USB, UCSI), but no virtual functions."""
        found = [
            device
            for name in names(self._files, DEVICES)
            if slot(name) == slot(gpu.address)
            and (device := self._pci.device(name)) is not None
            and device.physfn is None
            and not device.is_bridge
        ]
        return tuple(sorted(found, key=lambda device: device.address))

    def _endpoints(self, address: str, group_gpus: Collection[str]) -> tuple[PciDevice, ...]:
        gpu = self._gpu(address)
        where = f"pci {gpu.address}"
        _refuse_unsuitable(gpu, where)
        devices = self._functions(gpu)
        for device in devices:
            if device.iommu_group is not None:
                self._refuse_foreign(gpu, device.iommu_group, group_gpus, where)
        return devices

    def _refuse_foreign(self, gpu: PciDevice, group: int, group_gpus: Collection[str], where: str) -> None:
        for member in filter(is_held, foreign_members(gpu, self._pci.iommu_group(group), taken=group_gpus)):
            kind = _CLASSES.get(member.class_code[:2], "a device")
            details = [*member.network_interfaces, *self._mounted(member.address)]
            raise GpuNotSupportedError(
                f"IOMMU group {group} also contains {kind} of the host: {member.address}, driver {member.driver}"
                + (f", in use as {', '.join(details)}" if details else ""),
                where=where,
                fix="put the GPU into another slot (one below its own root port), or unbind that device if the "
                "host can do without it",
            )

    def _mounted(self, address: str) -> tuple[str, ...]:
        """Mount points and swap areas whose block device hangs below the PCI function."""
        used: list[str] = []
        for line in read_or(self._files, "/proc/mounts").splitlines():
            source, _, rest = line.partition(" ")
            if source.startswith("/dev/") and self._below(source.removeprefix("/dev/"), address):
                used.append(rest.split(" ", 1)[0])
        for line in read_or(self._files, "/proc/swaps").splitlines()[1:]:
            source = line.split()[0] if line.split() else ""
            if source.startswith("/dev/") and self._below(source.removeprefix("/dev/"), address):
                used.append("swap")
        return tuple(used)

    def _below(self, block: str, address: str, depth: int = 4) -> bool:
        """Whether a block device, or one that it is made of (LVM, RAID, encryption), hangs below `address`."""
        try:
            name = self._files.readlink(f"/dev/{block}").rpartition("/")[2]
        except OSError:
            name = block
        if not re.fullmatch(r"[\w.!-]+", name):
            return False
        base = f"/sys/class/block/{name}"
        try:
            if f"/{address}/" in self._files.readlink(base):
                return True
        except OSError:
            return False
        return depth > 0 and any(self._below(item, address, depth - 1) for item in names(self._files, f"{base}/slaves"))

    def _refuse_held(self, devices: tuple[PciDevice, ...]) -> None:
        """Unbinding the nvidia driver blocks while a process has the GPU open, so look first."""
        for device in devices:
            if device.driver == VFIO_PCI and device.iommu_group is not None:
                refuse_busy_group(self._files, str(device.iommu_group), f"pci {device.address}")
            if device.driver != "nvidia":
                continue
            facts = read_or(self._files, f"/proc/driver/nvidia/gpus/{device.address}/information")
            minor = re.search(r"^Device Minor:\s*(\d+)", facts, re.MULTILINE)
            if minor is None:
                continue
            holders = self._pci.holders(f"/dev/nvidia{minor.group(1)}")
            if holders:
                listed = ", ".join(f"{item.name} (pid {item.pid})" for item in holders)
                raise GpuBusyError(
                    f"the GPU is in use by {listed}",
                    where=f"pci {device.address}",
                    fix="stop them first (systemctl stop nvidia-persistenced nvidia-dcgm nvsm)",
                )

    # ------------------------------------------------------------ binding
    def _driver(self, address: str) -> str | None:
        device = self._pci.device(address)
        return device.driver if device else None

    def _rebind(self, address: str, driver: str) -> None:
        self._write(f"{DEVICES}/{address}/driver_override", driver, address)
        current = self._driver(address)
        if current is not None and current != driver:
            self._unbind(address, current)
        if self._driver(address) != driver:
            self._write(f"{DRIVERS}/{driver}/bind", address, address)
        # A successful write proves nothing; the link does.
        if self._driver(address) != driver:
            raise GpuDriverError(
                f"the kernel did not bind the function to {driver}",
                where=f"pci {address}",
                fix=f"look at dmesg; is the module {driver} loaded?",
            )

    def _bind_back(self, address: str, driver: str) -> None:
        current = self._driver(address)
        if current == driver:
            return
        if current is not None:
            self._unbind(address, current)
        if not driver:
            return
        if not self._files.exists(f"{DRIVERS}/{driver}"):
            raise GpuDriverError(
                f"the driver {driver} is not loaded, so the GPU stays without a driver",
                where=f"pci {address}",
                fix=f"modprobe {driver}",
            )
        self._write(f"{DRIVERS}/{driver}/bind", address, address)
        if self._driver(address) != driver:
            raise GpuDriverError(
                f"the kernel did not bind the GPU to {driver}", where=f"pci {address}", fix="look at dmesg"
            )

    def _restore(self, device: PciDevice) -> None:
        """Undo `_rebind` after a failure. Further failures are only logged: the first error is the one to report."""
        try:
            override = device.driver_override or "\n"
            self._write(f"{DEVICES}/{device.address}/driver_override", override, device.address)
            current = self._driver(device.address)
            if current is not None and current != device.driver:
                self._unbind(device.address, current)
            if device.driver is not None and self._driver(device.address) is None:
                self._write(f"{DRIVERS}/{device.driver}/bind", device.address, device.address)
        except GpuError as error:
            log.warning("could not give %s back to %s: %s", device.address, device.driver, error.what)

    def _unbind(self, address: str, driver: str) -> None:
        self._write(f"{DRIVERS}/{driver}/unbind", address, address)

    def _write(self, path: str, text: str, address: str) -> None:
        try:
            self._files.write(path, text)
        except OSError as error:
            where = f"pci {address}"
            what = f"writing {text.strip()!r} to {path} failed: {error.strerror}"
            if error.errno == errno.EBUSY:
                raise GpuBusyError(what, where=where, fix="something holds the function; see dmesg") from error
            raise GpuDriverError(what, where=where, fix="run as root; see dmesg for the kernel's reason") from error


def _refuse_unsuitable(gpu: PciDevice, where: str) -> None:
    """Refuse functions that are not a whole GPU which could be passed to a guest.

    Raises:
        GpuNotSupportedError: not an NVIDIA GPU, a virtual function, or without an IOMMU group.
        GpuBusyError: the GPU has virtual functions.
    """
    if gpu.is_bridge:
        raise GpuNotSupportedError("this is a PCI bridge, not a GPU", where=where)
    if gpu.vendor != NVIDIA_VENDOR or not gpu.class_code.startswith("03"):
        raise GpuNotSupportedError(
            f"this is not an NVIDIA GPU (vendor {gpu.vendor}, class {gpu.class_code})",
            where=where,
            fix="compare the lab file's pci_address with lspci -D -d 10de:",
        )
    if gpu.physfn is not None:
        raise GpuNotSupportedError(
            f"this is a virtual function of {gpu.physfn}; only whole GPUs can be passed through", where=where
        )
    if gpu.numvfs or gpu.virtfns:
        raise GpuBusyError(
            f"the GPU has {len(gpu.virtfns) or gpu.numvfs} virtual functions",
            where=where,
            fix=f"remove its vGPUs, then: /usr/lib/nvidia/sriov-manage -d {gpu.address}",
        )
    if gpu.iommu_group is None:
        raise GpuNotSupportedError(
            "the GPU is in no IOMMU group, so it cannot be passed to a guest",
            where=where,
            fix="switch VT-d or AMD-Vi on in the firmware and boot with intel_iommu=on or amd_iommu=on iommu=pt",
        )
