"""The question that must be asked before a device is taken from a guest: does somebody hold its VFIO group?"""

from __future__ import annotations

import errno

from emulator.adapters.nvidia.pci_sysfs import SysfsPci
from emulator.gpu.errors import GpuBusyError
from emulator.gpu.ports import FileAccess


def refuse_busy_group(files: FileAccess, group: str | None, where: str) -> None:
    """Raise `GpuBusyError` when the IOMMU group's device node is held.

    Linux lets one process open `/dev/vfio/<group>` at a time and answers EBUSY to others. Asking is safe, while
    removing or unbinding a held device blocks in the kernel until the holder ends.
    """
    if group is None:
        return
    node = f"/dev/vfio/{group}"
    try:
        files.probe_open(node)
    except OSError as error:
        # Absent: nothing is bound to a vfio driver, so nobody holds it. EPERM and the like are left to the
        # write that follows, whose message is about the operation itself.
        if error.errno != errno.EBUSY:
            return
        holders = ", ".join(f"{item.name} (pid {item.pid})" for item in SysfsPci(files).holders(node))
        raise GpuBusyError(
            f"{node} is held by {holders or 'another process'}",
            where=where,
            fix="shut the domain that uses the device down first",
        ) from error
