"""PCI functions from sysfs, read-only. Any file may be missing, and on some GPU or kernel most of them are."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from emulator.core.units import natural
from emulator.gpu.errors import GpuArgumentError
from emulator.gpu.ports import DeviceHolder, FileAccess, PciDevice, VgpuFramework

DEVICES = "/sys/bus/pci/devices"
DRIVERS = "/sys/bus/pci/drivers"
MDEV_BUS = "/sys/class/mdev_bus"
NVIDIA_VENDOR = "10de"

_ADDRESS = re.compile(r"(?:([0-9a-fA-F]{4,8}):)?([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])")


def normal_address(text: str) -> str:
    """`41:00.0` and NVML's `00000000:41:00.0` -> `0000:41:00.0`, the spelling of sysfs.

    Raises:
        GpuArgumentError: not a PCI address. Every address in a sysfs path passes through here.
    """
    match = _ADDRESS.fullmatch(text.strip())
    if not match:
        raise GpuArgumentError(f"{text!r} is not a PCI address", fix="write it as lspci -D prints it: 0000:41:00.0")
    domain, bus, device, function = match.groups()
    return f"{int(domain or '0', 16):04x}:{bus.lower()}:{device.lower()}.{function}"


def address_key(address: str) -> tuple[int, int, int, int]:
    """Sort key of a normal address: domain, bus, device, function."""
    domain, bus, rest = address.split(":")
    device, function = rest.split(".")
    return int(domain, 16), int(bus, 16), int(device, 16), int(function)


def _is_address(name: str) -> bool:
    return _ADDRESS.fullmatch(name) is not None


def slot(address: str) -> str:
    """`0000:41:00.1` -> `0000:41:00`, the slot that the functions of one GPU share."""
    return address.rpartition(".")[0]


def read_or(files: FileAccess, path: str, default: str = "") -> str:
    """The stripped text of a file, or `default` if the kernel has no such file or no value at present.

    Attributes of a vanishing device answer ENODEV or EIO, and `placement_id` of the vendor VFIO framework answers ENXIO
    until a type is set. For a reader all of these mean "no value".
    """
    try:
        return files.read(path).strip()
    except OSError:
        return default


def link_name(files: FileAccess, path: str) -> str | None:
    """Last component of a symbolic link's target; None if there is no link."""
    try:
        return PurePosixPath(files.readlink(path)).name
    except OSError:
        return None


def names(files: FileAccess, path: str) -> tuple[str, ...]:
    """The entries of a directory; empty if it is absent."""
    try:
        return files.listdir(path)
    except OSError:
        return ()


class SysfsPci:
    """`PciBus` over a `FileAccess`."""

    def __init__(self, files: FileAccess) -> None:
        self._files = files

    def devices(self, *, vendor: str | None = None) -> tuple[PciDevice, ...]:
        found = (self.device(name) for name in names(self._files, DEVICES) if _is_address(name))
        chosen = [item for item in found if item is not None and vendor in (None, item.vendor)]
        return tuple(sorted(chosen, key=lambda item: address_key(item.address)))

    def device(self, address: str) -> PciDevice | None:
        address = normal_address(address)
        base = f"{DEVICES}/{address}"
        if not self._files.exists(base):
            return None
        group = link_name(self._files, f"{base}/iommu_group")
        override = read_or(self._files, f"{base}/driver_override")
        virtfns = self._virtfns(base)
        return PciDevice(
            address=address,
            vendor=self._hex(base, "vendor", 4),
            device=self._hex(base, "device", 4),
            class_code=self._hex(base, "class", 6),
            driver=link_name(self._files, f"{base}/driver"),
            # An unset override reads as the text "(null)".
            driver_override=None if override in ("", "(null)") else override,
            iommu_group=natural(group or ""),
            numvfs=self._number(base, "sriov_numvfs"),
            totalvfs=self._number(base, "sriov_totalvfs"),
            virtfns=virtfns,
            physfn=self._address_link(f"{base}/physfn"),
            boot_vga={"0": False, "1": True}.get(read_or(self._files, f"{base}/boot_vga")),
            network_interfaces=names(self._files, f"{base}/net"),
            block_devices=self._block_devices(base),
        )

    def iommu_group(self, number: int) -> tuple[PciDevice, ...]:
        members = names(self._files, f"/sys/kernel/iommu_groups/{number}/devices")
        found = [item for item in map(self.device, filter(_is_address, members)) if item is not None]
        return tuple(sorted(found, key=lambda item: address_key(item.address)))

    def holders(self, *paths: str) -> tuple[DeviceHolder, ...]:
        found: set[DeviceHolder] = set()
        for pid in names(self._files, "/proc"):
            if natural(pid) is None:
                continue
            for number in names(self._files, f"/proc/{pid}/fd"):
                target = self._target(f"/proc/{pid}/fd/{number}")
                if target in paths:
                    name = read_or(self._files, f"/proc/{pid}/comm", "?")
                    found.add(DeviceHolder(pid=int(pid), name=name, path=target))
        return tuple(sorted(found, key=lambda holder: (holder.pid, holder.path)))

    def framework(self, address: str) -> VgpuFramework:
        device = self.device(address)
        if device is None:
            return VgpuFramework.NONE
        candidates = (device.address, *device.virtfns)
        if any(self._files.exists(f"{DEVICES}/{item}/nvidia/current_vgpu_type") for item in candidates):
            return VgpuFramework.VENDOR_VFIO
        if any(self._files.exists(f"{MDEV_BUS}/{item}") for item in candidates):
            return VgpuFramework.MDEV
        return VgpuFramework.NONE

    def _target(self, path: str) -> str:
        try:
            return self._files.readlink(path)
        except OSError:  # the process or its file has gone in the meantime
            return ""

    def _address_link(self, path: str) -> str | None:
        """The PCI address that a link leads to; None without a link, and for one that leads elsewhere."""
        name = link_name(self._files, path)
        return normal_address(name) if name is not None and _is_address(name) else None

    def _hex(self, base: str, name: str, digits: int) -> str:
        return read_or(self._files, f"{base}/{name}").removeprefix("0x").rjust(digits, "0")[-digits:]

    def _number(self, base: str, name: str) -> int:
        return natural(read_or(self._files, f"{base}/{name}")) or 0

    def _virtfns(self, base: str) -> tuple[str, ...]:
        found = (
            self._address_link(f"{base}/{name}")
            for name in names(self._files, base)
            if re.fullmatch(r"virtfn\d+", name)
        )
        return tuple(sorted((item for item in found if item and _ADDRESS.fullmatch(item)), key=address_key))

    def _block_devices(self, base: str) -> tuple[str, ...]:
        """Names of NVMe namespaces below the function; other disk controllers are recognised by their class alone."""
        return tuple(
            name
            for controller in names(self._files, f"{base}/nvme")
            for name in names(self._files, f"{base}/nvme/{controller}")
            if re.fullmatch(r"nvme\d+n\d+", name)
        )
