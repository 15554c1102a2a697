"""Checks whether a process holds a device's VFIO group before the device is taken from a guest."""

from __future__ import annotations

import errno

from emulator.adapters.nvidia.pci_sysfs import SysfsPci
from emulator.gpu.errors import GpuBusyError
from emulator.gpu.ports import FileAccess


def refuse_busy_group(files: FileAccess, group: str | None, where: str) -> None:
    """Raise `GpuBusyError` if a process holds the IOMMU group's device node.

    Linux lets one process at a time open `/dev/vfio/<group>` and answers EBUSY to others. Opening it is a safe test,
    while removing or unbinding a held device blocks in the kernel until the holder ends.
    """
    if group is None:
        return
    node = f"/dev/vfio/{group}"
    try:
        files.probe_open(node)
    except OSError as error:
        # Absent: nothing is bound to a vfio driver, so it has no holder. EPERM and other errors are left to the
        # following write, whose message describes the operation itself.
        if error.errno != errno.EBUSY:
            return
        holders = ", ".join(f"{item.name} (pid {item.pid})" for item in SysfsPci(files).holders(node))
        raise GpuBusyError(
            f"{node} is held by {holders or 'another process'}",
            where=where,
            fix="first shut down the domain that uses the device",
        ) from error
