"""What somebody added to a domain, as libvirt describes it."""

from __future__ import annotations

import pytest

from emulator.adapters.libvirt.domain_xml import read_domain
from emulator.core.ports import DomainInfo, DomainState

ID = "<name>a</name><uuid>6c1e2bd6-9c3e-4b9a-8a39-0b8f6f2f1c11</uuid>"


def read(body: str) -> DomainInfo:
    return read_domain(f"<domain type='kvm'>{ID}{body}</domain>", state=DomainState.RUNNING, autostart=False)


# What libvirt 9.0 writes on its own for a domain of ours, stored and running.
LIBVIRTS = """<emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='writeback' discard='unmap'/>
<source file='/x/a.qcow2' index='1'/><backingStore type='file' index='2'><format type='qcow2'/>
<source file='/x/base.qcow2'/></backingStore><target dev='vda' bus='virtio'/><alias name='virtio-disk0'/></disk>
<controller type='usb' index='0' model='none'/><controller type='pci' index='0' model='pcie-root'/>
<serial type='pty'><source path='/dev/pts/1'/><log file='/x/a.log' append='on'/></serial><console type='pty'/>
<input type='mouse' bus='ps2'/><input type='keyboard' bus='ps2'/><audio id='1' type='none'/>
<watchdog model='itco' action='reset'/><memballoon model='none'/><rng model='virtio'/>
<hostdev mode='subsystem' type='mdev'><source>
<address uuid='6c1e2bd6-9c3e-4b9a-8a39-0b8f6f2f1c12'/></source></hostdev>"""


def test_what_libvirt_adds_by_itself_is_nobody_s() -> None:
    info = read(f"<devices>{LIBVIRTS}</devices>")
    assert (info.extras, info.console_log, info.accelerated) == ((), "/x/a.log", True)


@pytest.mark.parametrize(
    ("device", "phrase"),
    [
        ("<hostdev type='usb'><source><address bus='1' device='2'/></source></hostdev>", "a usb device of the host"),
        ("<graphics type='vnc'><listen type='address' address='0.0.0.0'/></graphics>", "a vnc display on 0.0.0.0"),
        ("<graphics type='spice'/>", "a spice display"),
        ("<disk type='volume'><source pool='p' volume='v'/></disk>", "a volume disk (v)"),
        ("<disk type='file'><source file='/x'/></disk>", "the cache mode default for /x"),
        ("<serial type='tcp'/>", "a serial port of type tcp"),
        ("<redirdev type='spicevmc'/>", "a redirdev device"),
        ("<filesystem/>", "the directory empty of the host"),
    ],
)
def test_parts_added_by_hand(device: str, phrase: str) -> None:
    assert read(f"<devices>{device}</devices>").extras == (phrase,)


@pytest.mark.parametrize("tag", ["commandline", "override"])
def test_arguments_for_qemu(tag: str) -> None:
    info = read(f"<q:{tag} xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'/>")
    assert info.extras == ("arguments of its own for QEMU",)


def test_the_clock_is_not_of_the_command_line() -> None:
    text = "<os><cmdline>root=/dev/vda1  quiet tsc=reliable tsc_early_khz=2100000</cmdline></os>"
    assert read(text).cmdline == "root=/dev/vda1 quiet"


def test_credentials_are_read_as_they_were_given() -> None:
    entries = (
        "io.systemd.credential:a=b=c",
        "io.systemd.credential.binary:d=w7w=",
        "io.systemd.credential.binary:e=ü",
        "f",
    )
    strings = "".join(f"<entry>{entry}</entry>" for entry in entries)
    info = read(f"<sysinfo type='smbios'><oemStrings>{strings}</oemStrings></sysinfo>")
    assert info.credentials == (("a", "b=c"), ("d", "ü"), ("e", "binary ü"), ("f", ""))
