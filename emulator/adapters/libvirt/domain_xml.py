"""libvirt domain XML, written from a `DomainRequest` and read back. Pure."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from uuid import UUID

from emulator.adapters.libvirt.ownership_xml import add_owner, parse, read_owner, render, text_of, uuid_of
from emulator.adapters.libvirt.unmanaged_domain_parts import read_credentials, read_extras
from emulator.core.errors import HypervisorError
from emulator.core.ports import DomainInfo, DomainRequest, DomainState, Hostdev, HostdevKind
from emulator.core.units import natural

# A PCI Express machine, which vfio devices expect.
MACHINE = "q35"

_PCI_ADDRESS = re.compile(
    r"(?P<domain>[0-9a-f]{4,8}):(?P<bus>[0-9a-f]{2}):(?P<slot>[01][0-9a-f])\.(?P<function>[0-7])", re.IGNORECASE
)
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
# The output of `emulated_clock`; the frequency is measured anew at each boot of the host.
_CLOCK = re.compile(r"tsc=reliable|tsc_early_khz=[0-9]+")
_MIB_PER_UNIT: Mapping[str, float] = {"b": 2**-20, "bytes": 2**-20, "k": 2**-10, "KiB": 2**-10, "MiB": 1, "GiB": 1024}


def domain_xml(request: DomainRequest, tsc_khz: int | None = None) -> str:
    """The `<domain>` for a request: direct kernel boot, virtio devices, a serial console with a log, no graphics.

    Args:
        request: what to define.
        tsc_khz: the frequency of the host's time stamp counter, None if unknown.

    Raises:
        HypervisorError: a hostdev address or a credential name that cannot be expressed.
    """
    domain = ET.Element("domain", type="kvm" if request.accelerated else "qemu")
    ET.SubElement(domain, "name").text = request.name
    ET.SubElement(domain, "uuid").text = str(request.uuid)
    add_owner(domain, request.owner)
    ET.SubElement(domain, "memory", unit="MiB").text = str(request.memory_mib)
    ET.SubElement(domain, "vcpu", placement="static").text = str(request.vcpus)
    if request.credentials:
        _add_credentials(domain, request.credentials)
    _add_boot(domain, request, () if request.accelerated else emulated_clock(tsc_khz))
    features = ET.SubElement(domain, "features")
    for name in ("acpi", "apic"):
        ET.SubElement(features, name)
    ET.SubElement(domain, "cpu", mode="host-passthrough" if request.accelerated else "maximum")
    ET.SubElement(domain, "clock", offset="utc")
    ET.SubElement(domain, "on_poweroff").text = "destroy"
    ET.SubElement(domain, "on_reboot").text = "restart"
    ET.SubElement(domain, "on_crash").text = "destroy"
    _add_devices(domain, request)
    if request.account is not None:
        # relabel no: kernels and images keep their owner; dynamic ownership would change it for all labs on the same
        # image. A driver next to DAC, such as AppArmor, still makes its own label for the domain.
        label = ET.SubElement(domain, "seclabel", type="static", model="dac", relabel="no")
        ET.SubElement(label, "label").text = request.account.label
    return render(domain)


def emulated_clock(tsc_khz: int | None) -> tuple[str, ...]:
    """Kernel parameters that make a guest on an emulated CPU use the CPU's counter as its clock.

    All such CPUs read the host's counter (QEMU's cpu_get_ticks). The kernel cannot know that and considers them
    unsynchronised; each reading of the clock, very frequent in programs written in Go, then goes through the emulated
    HPET under QEMU's one big lock. The frequency is given as well, because a guest that measures it on a busy host can
    be wrong by a factor, and so would be its clock.
    """
    return () if tsc_khz is None else ("tsc=reliable", f"tsc_early_khz={tsc_khz}")


def _add_boot(domain: ET.Element, request: DomainRequest, clock: tuple[str, ...]) -> None:
    boot = ET.SubElement(domain, "os")
    ET.SubElement(boot, "type", arch="x86_64", machine=MACHINE).text = "hvm"
    ET.SubElement(boot, "kernel").text = str(request.kernel)
    ET.SubElement(boot, "initrd").text = str(request.initrd)
    ET.SubElement(boot, "cmdline").text = " ".join((request.cmdline, *clock))
    if request.credentials:
        ET.SubElement(boot, "smbios", mode="sysinfo")


def _add_credentials(domain: ET.Element, credentials: Mapping[str, str]) -> None:
    """systemd credentials as SMBIOS type 11 strings, which systemd reads since version 252."""
    strings = ET.SubElement(ET.SubElement(domain, "sysinfo", type="smbios"), "oemStrings")
    for name, value in credentials.items():
        if not _CREDENTIAL_NAME.fullmatch(name):
            raise HypervisorError(f"{name!r} cannot be the name of a systemd credential")
        if value.isascii() and value.isprintable() and value == value.strip():
            entry = f"io.systemd.credential:{name}={value}"
        else:
            # Line ends and other bytes do not survive XML attributes and QEMU's option syntax.
            encoded = base64.b64encode(value.encode()).decode()
            entry = f"io.systemd.credential.binary:{name}={encoded}"
        ET.SubElement(strings, "entry").text = entry


def _add_devices(domain: ET.Element, request: DomainRequest) -> None:
    devices = ET.SubElement(domain, "devices")
    _add_disk(devices, request.disk)
    interface = ET.SubElement(devices, "interface", type="network")
    ET.SubElement(interface, "mac", address=request.mac)
    ET.SubElement(interface, "source", network=request.network)
    ET.SubElement(interface, "model", type="virtio")
    # No option ROM: guests never boot from the network, and loading it takes time without KVM.
    ET.SubElement(interface, "rom", enabled="no")
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "log", file=str(request.console_log), append="on")
    ET.SubElement(serial, "target", port="0")
    console = ET.SubElement(devices, "console", type="pty")
    ET.SubElement(console, "target", type="serial", port="0")
    # libvirt adds a PS/2 keyboard and mouse, a USB controller and a balloon unless they are switched off.
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")
    rng = ET.SubElement(devices, "rng", model="virtio")
    ET.SubElement(rng, "backend", model="random").text = "/dev/urandom"
    for hostdev in request.hostdevs:
        devices.append(hostdev_element(hostdev))


def _add_disk(devices: ET.Element, path: Path) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    # writeback: the guest's flushes reach the host's disk, so a lab survives a power cut; `unsafe` would save
    # little, because guests flush rarely. unmap returns deleted blocks to the host.
    ET.SubElement(disk, "driver", name="qemu", type="qcow2", cache="writeback", discard="unmap")
    ET.SubElement(disk, "source", file=str(path))
    ET.SubElement(disk, "target", dev="vda", bus="virtio")


def hostdev_element(hostdev: Hostdev) -> ET.Element:
    """The `<hostdev>` of a device.

    mdev: libvirt ignores `managed`. VF with vendor VFIO: `managed='no'`, because the vGPU driver stays bound.
    Whole function: `managed='yes'`; libvirt binds vfio-pci at start and returns the device at shutdown.

    Raises:
        HypervisorError: the address does not suit the kind.
    """
    if hostdev.kind is HostdevKind.MDEV:
        element = ET.Element("hostdev", mode="subsystem", type="mdev", model="vfio-pci")
        try:
            identity = UUID(hostdev.address)
        except ValueError:
            raise HypervisorError(f"{hostdev.address!r} is not the UUID of a mediated device") from None
        ET.SubElement(ET.SubElement(element, "source"), "address", uuid=str(identity))
        return element
    match = _PCI_ADDRESS.fullmatch(hostdev.address)
    if match is None:
        raise HypervisorError(f"{hostdev.address!r} is not a PCI address such as 0000:41:00.4")
    managed = "yes" if hostdev.kind is HostdevKind.PCI else "no"
    element = ET.Element("hostdev", mode="subsystem", type="pci", managed=managed)
    parts = {name: f"0x{value}" for name, value in match.groupdict().items()}
    ET.SubElement(ET.SubElement(element, "source"), "address", parts)
    return element


def read_domain(text: str, *, state: DomainState, autostart: bool) -> DomainInfo:
    """A domain as libvirt describes it.

    Raises:
        HypervisorError: the text is not a domain.
    """
    root = parse(text, "domain")
    macs = (element.get("address", "").lower() for element in root.findall("devices/interface/mac"))
    disks = (element.get("file") for element in root.findall("devices/disk[@device='disk']/source"))
    return DomainInfo(
        name=text_of(root, "name"),
        uuid=uuid_of(root),
        state=state,
        owner=read_owner(root),
        autostart=autostart,
        vcpus=natural(text_of(root, "vcpu")) or 0,
        memory_mib=_memory_mib(root),
        macs=tuple(macs),
        disks=tuple(Path(disk) for disk in disks if disk),
        networks=tuple(element.get("network", "") for element in root.findall("devices/interface/source")),
        kernel=text_of(root, "os/kernel"),
        initrd=text_of(root, "os/initrd"),
        cmdline=" ".join(word for word in text_of(root, "os/cmdline").split() if not _CLOCK.fullmatch(word)),
        console_log=_console_log(root),
        accelerated=root.get("type") == "kvm",
        credentials=read_credentials(root),
        hostdevs=tuple(hostdev for element in root.findall("devices/hostdev") if (hostdev := _hostdev(element))),
        extras=read_extras(root),
        account=root.findtext("seclabel[@model='dac'][@type='static']/label", "").strip(),
    )


def _console_log(root: ET.Element) -> str:
    log = root.find("devices/serial/log")
    return "" if log is None else log.get("file", "")


def _hostdev(element: ET.Element) -> Hostdev | None:
    """A passed-through device; None for kinds that we never use (USB, SCSI)."""
    address = element.find("source/address")
    if address is None:
        return None
    if element.get("type") == "mdev":
        return Hostdev(HostdevKind.MDEV, address.get("uuid", "").lower())
    parts = [address.get(name, "").removeprefix("0x").lower() for name in ("domain", "bus", "slot", "function")]
    if element.get("type") != "pci" or not all(parts):
        return None
    kind = HostdevKind.PCI if element.get("managed") == "yes" else HostdevKind.VFIO_VF
    return Hostdev(kind, f"{parts[0]}:{parts[1]}:{parts[2]}.{parts[3]}")


def _memory_mib(root: ET.Element) -> int:
    memory = root.find("memory")
    size = None if memory is None else natural((memory.text or "").strip())
    if memory is None or size is None:
        return 0
    return round(size * _MIB_PER_UNIT.get(memory.get("unit", "KiB"), 2**-10))
