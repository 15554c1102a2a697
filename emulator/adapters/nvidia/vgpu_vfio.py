"""vGPUs in the vendor-specific VFIO framework: `<VF>/nvidia/current_vgpu_type` (no mdev).

Writing the number of a type there turns the virtual function into a vGPU; writing 0 removes the vGPU. The guest gets
the virtual function as a plain PCI device, with the nvidia driver left bound.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping

from emulator.adapters.nvidia.pci_sysfs import DEVICES, SysfsPci, link_name, normal_address, read_or
from emulator.adapters.nvidia.vfio_group import refuse_busy_group
from emulator.core.errors import GpuError, HyperscalerError
from emulator.core.ports import log
from emulator.core.units import natural
from emulator.gpu.errors import (
    GpuArgumentError,
    GpuBusyError,
    GpuDriverError,
    GpuNoRoomError,
    GpuNotFoundError,
    GpuPermissionError,
)
from emulator.gpu.ports import FileAccess, VgpuDevice, VgpuFramework, VgpuParent, VgpuRequest

# The driver's list begins with `ID    : vGPU Name`; the user guide shows `name id` lines instead.
_ID_FIRST = re.compile(r"(\d+)(?:\s*:\s*|\s+)([A-Za-z].*)")
_NAME_FIRST = re.compile(r"([A-Za-z].*?)(?:\s*:\s*|\s+)(\d+)")

# The kernel returns one page at most; the patterns above take time quadratic in the length of a line.
_MAX_LINE = 256


def parse_creatable(text: str) -> dict[str, int]:
    """Type numbers by type name (last word), from the text of `creatable_vgpu_types`. Header lines are skipped."""
    found: dict[str, int] = {}
    for line in map(str.strip, text.splitlines()):
        if len(line) > _MAX_LINE:
            continue
        if match := _ID_FIRST.fullmatch(line):
            number, name = match.groups()
        elif match := _NAME_FIRST.fullmatch(line):
            name, number = match.groups()
        else:
            continue
        if (known := natural(number)) is not None:
            found[name.split()[-1]] = known
    return found


class VendorVfioHost:
    """`VgpuHost` of the vendor-specific VFIO framework.

    Args:
        files: the kernel's files.
        type_names: names by type number of the GPU at a PF address, from NVML. A function that carries a vGPU shows
            only the number, and no other function lists a type that is used up.
    """

    framework = VgpuFramework.VENDOR_VFIO

    def __init__(self, files: FileAccess, type_names: Callable[[str], Mapping[int, str]] = lambda _address: {}) -> None:
        self._files = files
        self._type_names = type_names
        self._pci = SysfsPci(files)
        self._names: dict[int, str] = {}

    def parents(self, pf_address: str) -> tuple[VgpuParent, ...]:
        device = self._pci.device(pf_address)
        if device is None:
            return ()
        return tuple(
            VgpuParent(address=address, creatable=self._creatable(address), devices=self._on(address))
            for address in (device.address, *device.virtfns)
            if self._files.exists(_current(address))
        )

    def devices(self) -> tuple[VgpuDevice, ...]:
        functions = (item for item in self._pci.devices(vendor="10de") if item.physfn)
        return tuple(device for item in functions for device in self._on(item.address))

    def create(self, request: VgpuRequest) -> VgpuDevice:
        parent = normal_address(request.parent)
        where = f"vGPU on {parent}"
        holder = next(iter(self._on(parent)), None)
        if holder is not None:
            raise GpuBusyError(
                f"this virtual function carries a vGPU already (type {holder.type_name})",
                where=where,
                fix="use another virtual function or remove that vGPU",
            )
        if not self._files.exists(_current(parent)):
            raise GpuNotFoundError(
                "this function carries no vGPUs",
                where=f"pci {parent}",
                fix="enable the virtual functions with sriov-manage and use one of them",
            )
        creatable = self._creatable(parent)
        wanted = request.type_name.split()[-1] if request.type_name.split() else request.type_name
        number = creatable.get(wanted)
        if number is None:
            raise GpuNoRoomError(
                f"vGPU type {wanted} cannot be created here now; possible: {', '.join(sorted(creatable)) or 'none'}. "
                "Either no GPU instance of its profile is free, or MIG mode does not suit it, or the GPU lacks it",
                where=where,
                fix="compare MIG mode and GPU instances: hyperscaler gpu discover",
            )
        try:
            self._files.write(_current(parent), str(number))
        except OSError as error:
            raise _refused(error, f"create {wanted}", where) from error
        made = next(iter(self._on(parent)), None)
        if made is None or made.type_id != number:
            raise GpuDriverError(
                f"the driver accepted the vGPU, but afterwards the function carries {made or 'none'}",
                where=where,
                fix="look at `dmesg | grep -i nvidia` and at the nvidia-vgpu-mgr log",
            )
        return made

    def remove(self, device: VgpuDevice) -> bool:
        parent = normal_address(device.parent)
        where = f"vGPU on {parent}"
        if not self._on(parent):
            return False
        refuse_busy_group(self._files, link_name(self._files, f"{DEVICES}/{parent}/iommu_group"), where)
        try:
            self._files.write(_current(parent), "0")
        except OSError as error:
            if self._on(parent):
                raise _refused(error, "remove the vGPU", where) from error
        if self._on(parent):
            raise GpuDriverError(
                "the driver accepted the removal, but the vGPU is still there", where=where, fix="try again"
            )
        return True

    def _creatable(self, address: str) -> dict[str, int]:
        found = parse_creatable(read_or(self._files, f"{DEVICES}/{address}/nvidia/creatable_vgpu_types"))
        self._names.update({number: name for name, number in found.items()})
        return found

    def _on(self, address: str) -> tuple[VgpuDevice, ...]:
        text = read_or(self._files, _current(address), "0")
        number = natural(text)
        if not number:
            if text and number is None:
                log.warning("%s holds %r, which is not a vGPU type", _current(address), text)
            return ()
        name = self._names.get(number) or self._name_of(address, number)
        return (VgpuDevice(VgpuFramework.VENDOR_VFIO, address, number, name),)

    def _name_of(self, address: str, number: int) -> str:
        """The type's name, from another function that offers it or from NVML, else its number as text."""
        owner = link_name(self._files, f"{DEVICES}/{address}/physfn")
        device = self._pci.device(owner) if owner else None
        for other in device.virtfns if device else ():
            self._creatable(other)
            if number in self._names:
                return self._names[number]
        try:
            self._names.update(self._type_names(owner) if owner else {})
        except HyperscalerError as error:
            log.debug("names of the vGPU types of %s are unknown: %s", owner, error)
        return self._names.get(number, str(number))


def _current(address: str) -> str:
    return f"{DEVICES}/{address}/nvidia/current_vgpu_type"


def _refused(error: OSError, action: str, where: str) -> GpuError:
    """The error for the driver's errno. EPERM and EIO have special meanings in this framework."""
    what = f"the driver refused to {action}"
    if error.errno == errno.EPERM:
        return GpuBusyError(
            f"{what}: the function's vGPU is set or empty already, or a domain uses it (EPERM)",
            where=where,
            fix="shut down the domain; remove the old vGPU before creating another one",
        )
    if error.errno == errno.EIO:
        return GpuNoRoomError(
            f"{what}: there is no free GPU instance of its profile (EIO)",
            where=where,
            fix="create one first: hyperscaler gpu discover shows the present ones",
        )
    if error.errno == errno.ENODEV:
        return GpuNotFoundError(
            f"{what}: the function went away (ENODEV)", where=where, fix="was the driver reloaded? discover again"
        )
    if error.errno == errno.EINVAL:
        return GpuArgumentError(f"{what}: it does not know the type (EINVAL)", where=where)
    if error.errno == errno.EACCES:
        return GpuPermissionError(f"{what}: this needs root", where=where, fix="run as root")
    return GpuDriverError(f"{what}: {error.strerror}", where=where, fix="look at `dmesg | grep -i nvidia`")
