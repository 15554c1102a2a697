"""Saved states of domains by libvirt's save and restore, which all its versions have.

libvirt's own snapshots are not used: with memory and disks outside of it, versions before 9.10 cannot go back to one.
"""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emulator.adapters.libvirt.errors import OPERATION_INVALID, call, load_libvirt, tolerate
from emulator.core.errors import HypervisorError
from emulator.core.fs import unfinished

_MACHINE_ID = Path("/etc/machine-id")

SAVE_SECONDS = 6 * 3600.0
"""A call that writes or reads all memory of a guest: on a slow disk as long as it takes. What hangs is found by the
ping with which each use of a connection begins."""
_POLL_SECONDS = 0.5
_DISK = "vda"


def machine(connection: Any, capabilities: Callable[[], str], *, accelerated: bool, where: str) -> str:
    """See `SavedStates.machine`. An emulated CPU is QEMU's own, whatever the host has."""
    number = call(connection.getVersion, where=where)
    qemu = f"QEMU {number // 1000000}.{number // 1000 % 1000}.{number % 1000}"
    cpu = _cpu(capabilities()) if accelerated else "an emulated CPU"
    return f"{qemu}, {cpu}, host {_machine_id()}"


def _machine_id() -> str:
    try:
        return _MACHINE_ID.read_text().strip()
    except OSError:
        return "without a machine id"


def _cpu(capabilities: str) -> str:
    root = ET.fromstring(capabilities)  # noqa: S314 - written by libvirt
    element = root.find("host/cpu")
    if element is None:
        return "an unknown CPU"
    features = sorted(each.get("name", "") for each in element.findall("feature"))
    microcode = element.find("microcode")
    version = "" if microcode is None else f" microcode {microcode.get('version', '')}"
    return f"{element.findtext('model', '')}{version} {' '.join(features)}"


def save(handle: Any, file: Path, *, where: str) -> None:
    """See `SavedStates.save_domain`. The file has another name until it is whole: libvirtd may be killed meanwhile."""
    flags = load_libvirt().VIR_DOMAIN_SAVE_PAUSED
    partial = unfinished(file, ".partial")
    partial.unlink(missing_ok=True)
    call(lambda: handle.saveFlags(str(partial), None, flags), where=where, seconds=SAVE_SECONDS)
    partial.chmod(0o600)
    partial.rename(file)


def restore(connection: Any, handle: Any, file: Path, *, where: str) -> None:
    """See `SavedStates.restore_domain`."""
    flags = load_libvirt().VIR_DOMAIN_SAVE_PAUSED
    if call(handle.isActive, where=where):
        raise HypervisorError("it is on: a saved state can only be restored while it is off", where=where)
    if not file.is_file():
        raise HypervisorError("its saved state is gone", where=str(file))
    domain = ET.fromstring(  # noqa: S314 - written by libvirt
        call(lambda: connection.saveImageGetXMLDesc(str(file), 0), where=where)
    )
    if domain.findtext("uuid") != handle.UUIDString():
        raise HypervisorError("it is the saved state of another guest", where=str(file))
    edited = without_layers(domain)
    call(lambda: connection.restoreFlags(str(file), edited, flags), where=where, seconds=SAVE_SECONDS)


def without_layers(domain: ET.Element) -> str | None:
    """The description without what it says of layers under its disks; None where it says nothing of them.

    libvirt finds the layers by the headers of the disks. A description that named those of the time of saving would win
    over the headers, and the guest would read another disk.
    """
    named = [(disk, layer) for disk in domain.findall("devices/disk") for layer in disk.findall("backingStore")]
    for disk, layer in named:
        disk.remove(layer)
    return ET.tostring(domain, encoding="unicode") if named else None


def flatten(handle: Any, base: Path, *, where: str) -> None:
    """See `SavedStates.flatten_disk`."""
    if not call(handle.isActive, where=where):
        raise HypervisorError("it is off: its disk can only be flattened while it is on", where=where)
    layers = layers_of(call(lambda: handle.XMLDesc(0), where=where))
    if str(base) not in layers:
        raise HypervisorError(f"{base} is not under its disk", where=where)
    if layers.index(str(base)) == 0:
        return
    # One that an earlier command began is waited for as well.
    tolerate((OPERATION_INVALID,), lambda: handle.blockRebase(_DISK, str(base), 0, 0), where=where)
    while call(lambda: handle.blockJobInfo(_DISK, 0), where=where):
        time.sleep(_POLL_SECONDS)
    layers = layers_of(call(lambda: handle.XMLDesc(0), where=where))
    if not layers or layers[0] != str(base):
        raise HypervisorError("its disk could not be flattened; the layers under it stay", where=where)


def layers_of(text: str) -> list[str]:
    """The files under the disk of a domain that is on, the upper ones first."""
    element = ET.fromstring(text).find("devices/disk[@device='disk']/backingStore")  # noqa: S314 - written by libvirt
    found = []
    while element is not None:
        source = element.find("source")
        if source is not None:
            found.append(source.get("file", ""))
        element = element.find("backingStore")
    return found
