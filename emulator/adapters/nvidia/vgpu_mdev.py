"""vGPUs as mediated devices: `/sys/class/mdev_bus/<parent>/mdev_supported_types`.

The parent is a virtual function on SR-IOV GPUs and the physical function on older ones. Writing a UUID to `create`
makes a vGPU, which then is a directory of that name under `/sys/bus/mdev/devices`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from uuid import UUID

from emulator.adapters.nvidia.pci_sysfs import MDEV_BUS, SysfsPci, link_name, names, normal_address, read_or
from emulator.adapters.nvidia.vfio_group import refuse_busy_group
from emulator.core.errors import GpuError
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

MDEV_DEVICES = "/sys/bus/mdev/devices"


@dataclass(frozen=True, slots=True)
class _Type:
    directory: str
    id: int
    name: str


class MdevHost:
    """`VgpuHost` of the mdev framework."""

    framework = VgpuFramework.MDEV

    def __init__(self, files: FileAccess) -> None:
        self._files = files
        self._pci = SysfsPci(files)

    def parents(self, pf_address: str) -> tuple[VgpuParent, ...]:
        device = self._pci.device(pf_address)
        if device is None:
            return ()
        existing = self.devices()
        candidates = (device.address, *device.virtfns)
        return tuple(
            VgpuParent(
                address=address,
                creatable={item.name: item.id for item in self._types(address) if self._available(item) > 0},
                devices=tuple(item for item in existing if item.parent == address),
            )
            for address in candidates
            if self._files.exists(f"{MDEV_BUS}/{address}")
        )

    def devices(self) -> tuple[VgpuDevice, ...]:
        found: list[VgpuDevice] = []
        for name in names(self._files, MDEV_DEVICES):
            device = self._device(name)
            if device is not None:
                found.append(device)
        return tuple(found)

    def create(self, request: VgpuRequest) -> VgpuDevice:
        parent = normal_address(request.parent)
        wanted = self._type(parent, request.type_name)
        # The kernel ignores everything after the 36th character and lets an empty write "succeed", so only the
        # canonical text of a UUID object is ever written.
        text = str(request.uuid)
        where = f"vGPU {text} on {parent}"
        taken = self._device(text)
        if taken is not None:
            raise _taken(taken, where)
        if self._available(wanted) < 1:
            raise self._unavailable(parent, wanted, where)
        try:
            self._files.write(f"{wanted.directory}/create", text)
        except OSError as error:
            raise self._refused(error, parent, wanted, where) from error
        made = self._device(text)
        if made is None or (made.parent, made.type_name) != (parent, wanted.name):
            raise GpuDriverError(
                f"the kernel accepted the vGPU, but afterwards it shows {made or 'none'}",
                where=where,
                fix="look at `dmesg | grep -i nvidia` and at the nvidia-vgpu-mgr log",
            )
        return made

    def remove(self, device: VgpuDevice) -> bool:
        if device.uuid is None:
            raise GpuArgumentError("a mediated device has a UUID", where=f"vGPU on {device.parent}")
        base = f"{MDEV_DEVICES}/{device.uuid}"
        where = f"vGPU {device.uuid} on {device.parent}"
        if not self._files.exists(base):
            return False
        refuse_busy_group(self._files, link_name(self._files, f"{base}/iommu_group"), where)
        try:
            self._files.write(f"{base}/remove", "1")
        except FileNotFoundError:
            return False
        except OSError as error:
            # A removal that races with another one ends with ENODEV or EAGAIN: only absence afterwards counts.
            if self._files.exists(base):
                raise GpuBusyError(
                    f"the kernel refused to remove the vGPU: {error.strerror}",
                    where=where,
                    fix="shut down the domain that uses it, then try again",
                ) from error
        if self._files.exists(base):
            raise GpuDriverError(
                "the kernel accepted the removal, but the vGPU is still there", where=where, fix="try again"
            )
        return True

    def _types(self, parent: str) -> Iterator[_Type]:
        base = f"{MDEV_BUS}/{parent}/mdev_supported_types"
        for name in names(self._files, base):
            number = natural(name.rpartition("-")[2])
            # The name begins with GRID, NVIDIA or a product name of several words; the last word identifies the type.
            words = read_or(self._files, f"{base}/{name}/name").split()
            if not words or number is None:
                continue
            yield _Type(f"{base}/{name}", number, words[-1])

    def _available(self, item: _Type) -> int:
        return natural(read_or(self._files, f"{item.directory}/available_instances")) or 0

    def _type(self, parent: str, name: str) -> _Type:
        if not self._files.exists(f"{MDEV_BUS}/{parent}"):
            raise GpuNotFoundError(
                "this function carries no mediated devices",
                where=f"pci {parent}",
                fix="enable the virtual functions with sriov-manage and use one of them",
            )
        types = list(self._types(parent))
        wanted = name.split()[-1] if name.split() else name
        for item in types:
            if item.name == wanted:
                return item
        listed = ", ".join(sorted(item.name for item in types)) or "none at all"
        raise GpuArgumentError(
            f"there is no vGPU type {name!r} here; the driver offers {listed}",
            where=f"pci {parent}",
            fix="types are named after the GPU: compare the model in the lab file",
        )

    def _device(self, name: str) -> VgpuDevice | None:
        base = f"{MDEV_DEVICES}/{name}"
        try:
            uuid = UUID(name)
            parent = PurePosixPath(self._files.readlink(base)).parent.name
        except (ValueError, OSError):
            return None
        kind = link_name(self._files, f"{base}/mdev_type") or ""
        words = read_or(self._files, f"{base}/mdev_type/name").split()
        return VgpuDevice(
            framework=VgpuFramework.MDEV,
            parent=parent,
            type_id=natural(kind.rpartition("-")[2]) or 0,
            type_name=words[-1] if words else kind,
            uuid=uuid,
        )

    def _unavailable(self, parent: str, wanted: _Type, where: str) -> GpuError:
        """The error for `available_instances` 0, which has three causes; sysfs alone can identify only the first
        one."""
        holder = next((item for item in self.devices() if item.parent == parent), None)
        if holder is not None:
            return GpuBusyError(
                f"this virtual function carries a vGPU already ({holder.type_name}, {holder.uuid})",
                where=where,
                fix="use another virtual function or remove that vGPU",
            )
        others = [item.name for item in self._types(parent) if self._available(item) > 0]
        hint = f"; possible now: {', '.join(others)}" if others else ""
        return GpuNoRoomError(
            f"vGPU type {wanted.name} has 0 available instances: no free GPU instance of its profile, or the "
            f"GPU's MIG mode does not suit it{hint}",
            where=where,
            fix="compare MIG mode and GPU instances: hyperscaler gpu discover",
        )

    def _refused(self, error: OSError, parent: str, wanted: _Type, where: str) -> GpuError:
        if error.errno == errno.EEXIST:
            taken = self._device(where.split()[1])
            return _taken(taken, where) if taken else GpuBusyError("the UUID is taken", where=where)
        if error.errno in (errno.ENOSPC, errno.EUSERS):
            return self._unavailable(parent, wanted, where)
        if error.errno in (errno.EPERM, errno.EACCES):
            return GpuPermissionError("creating vGPUs needs root", where=where, fix="run as root")
        if error.errno in (errno.ENODEV, errno.ENOENT):
            return GpuNotFoundError(
                "the virtual function went away", where=where, fix="was the driver reloaded? discover again"
            )
        return GpuDriverError(
            f"the driver refused to create {wanted.name}: {error.strerror}",
            where=where,
            fix="look at `dmesg | grep -i nvidia`; no free GPU instance of the profile is the usual cause",
        )


def _taken(device: VgpuDevice, where: str) -> GpuBusyError:
    return GpuBusyError(
        f"the UUID is taken by a vGPU of type {device.type_name} on {device.parent}",
        where=where,
        fix=f"if nothing uses it: echo 1 > {MDEV_DEVICES}/{device.uuid}/remove",
    )
