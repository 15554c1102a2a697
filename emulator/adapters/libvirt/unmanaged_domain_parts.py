"""Parts of a domain that `domain_xml` does not produce and that were added or changed by hand. Pure.

Only parts that no version of libvirt adds by itself are named. Those that it does add at definition or start
(controllers, addresses, aliases, input, audio and watchdog devices, the expanded CPU) are no sign of an edit.
"""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
_SOURCES = ("file", "dev", "name", "dir", "volume")
_PLAIN = ("channel", "crypto", "memory", "parallel", "redirdev", "shmem", "smartcard", "tpm", "vsock")
_CREDENTIAL = re.compile(r"io\.systemd\.credential(?P<binary>\.binary)?:(?P<name>[^=]+)=(?P<value>.*)", re.DOTALL)


def read_extras(root: ET.Element) -> tuple[str, ...]:
    """One phrase per part, fit to follow "has"; equal for the stored description and the running guest."""
    devices = root.find("devices")
    found = [] if devices is None else [text for element in devices for text in _of_device(element)]
    if root.find(f"{_QEMU}commandline") is not None or root.find(f"{_QEMU}override") is not None:
        found.append("arguments of its own for QEMU")
    return tuple(sorted(found))


def _of_device(element: ET.Element) -> Iterator[str]:
    kind = element.get("type", "")
    match element.tag:
        case "disk":
            yield from _of_disk(element)
        case "filesystem":
            yield f"the directory {_source(element)} of the host"
        case "hostdev" if kind not in ("pci", "mdev"):
            yield f"a {kind} device of the host"
        case "graphics":
            listen = element.find("listen")
            address = element.get("listen") or (listen.get("address") if listen is not None else None)
            yield f"a {kind} display" + (f" on {address}" if address else "")
        case "serial" if kind != "pty":
            yield f"a serial port of type {kind}"
        case tag if tag in _PLAIN:
            yield f"a {tag} device"


def _of_disk(element: ET.Element) -> Iterator[str]:
    kind, device, driver = element.get("type", ""), element.get("device", "disk"), element.find("driver")
    if kind != "file" or device != "disk":
        yield f"a {kind} {device} ({_source(element)})"
        return
    cache = driver.get("cache", "default") if driver is not None else "default"
    if cache != "writeback":
        yield f"the cache mode {cache} for {_source(element)}"


def _source(element: ET.Element) -> str:
    source = element.find("source")
    names = [] if source is None else [source.get(name) for name in _SOURCES]
    return next((name for name in names if name), "empty")


def read_credentials(root: ET.Element) -> tuple[tuple[str, str], ...]:
    """systemd credentials as `domain_xml` writes them; any other SMBIOS string is returned as it is."""
    found = []
    for entry in root.findall("sysinfo[@type='smbios']/oemStrings/entry"):
        text = entry.text or ""
        match = _CREDENTIAL.fullmatch(text)
        if match is None:
            found.append((text, ""))
            continue
        value = match["value"]
        if match["binary"]:
            try:
                value = base64.b64decode(value, validate=True).decode()
            except ValueError:  # not base64, or not text
                value = f"binary {value}"
        found.append((match["name"], value))
    return tuple(sorted(found))
