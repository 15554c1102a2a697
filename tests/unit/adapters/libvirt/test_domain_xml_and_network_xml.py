"""Domain and network XML: what is written, and what is read back."""

from __future__ import annotations

import base64
import pwd
import xml.etree.ElementTree as ET
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from emulator.adapters.libvirt.domain_xml import domain_xml, hostdev_element, read_domain
from emulator.adapters.libvirt.guest_account import account_for, account_of, guest_account
from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor
from emulator.adapters.libvirt.network_xml import dns_address_xml, network_xml, read_nat, read_network
from emulator.adapters.libvirt.ownership_xml import parse, read_owner
from emulator.core.errors import HostNotFitError, HypervisorError
from emulator.core.ports import DnsName, DomainRequest, DomainState, Hostdev, HostdevKind, Ownership
from emulator.core.ports.guest_accounts import GuestAccount
from tests.support.tiny_guest import TinyGuests

GUESTS = TinyGuests(Path("/lab"))
REQUEST = GUESTS.domain("a", disk=Path("/lab/a.qcow2"))
MDEV = Hostdev(HostdevKind.MDEV, "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001")
VF = Hostdev(HostdevKind.VFIO_VF, "0000:41:00.4")
PCI = Hostdev(HostdevKind.PCI, "0000:C1:1f.7")


def xml_of(request: DomainRequest) -> ET.Element:
    return parse(domain_xml(request), "domain")


def test_a_domain_is_read_back_as_it_was_written() -> None:
    info = read_domain(domain_xml(REQUEST), state=DomainState.RUNNING, autostart=False)
    assert (info.name, info.uuid, info.owner) == ("a", REQUEST.uuid, REQUEST.owner)
    assert (info.vcpus, info.memory_mib, info.macs, info.disks) == (1, 64, (REQUEST.mac,), (REQUEST.disk,))


@pytest.mark.parametrize(
    ("accelerated", "kind", "cpu"), [(True, "kvm", "host-passthrough"), (False, "qemu", "maximum")]
)
def test_acceleration_chooses_type_and_cpu(accelerated: bool, kind: str, cpu: str) -> None:
    root = xml_of(replace(REQUEST, accelerated=accelerated))
    assert root.get("type") == kind
    element = root.find("cpu")
    assert element is not None
    assert element.get("mode") == cpu


def test_only_an_emulated_guest_gets_the_frequency_of_the_host_s_counter() -> None:
    def cmdline(tsc_khz: int | None, *, accelerated: bool) -> str | None:
        request = replace(REQUEST, accelerated=accelerated)
        return parse(domain_xml(request, tsc_khz), "domain").findtext("os/cmdline")

    told = f"{REQUEST.cmdline} tsc=reliable tsc_early_khz=2100000"
    assert cmdline(2_100_000, accelerated=False) == told
    assert cmdline(None, accelerated=False) == cmdline(2_100_000, accelerated=True) == REQUEST.cmdline


def capabilities(*models: tuple[str, str]) -> str:
    def model(name: str, label: str) -> str:
        return f"<secmodel><model>{name}</model><baselabel type='kvm'>{label}</baselabel></secmodel>"

    return f"<capabilities><host>{''.join(model(*each) for each in models)}</host></capabilities>"


@pytest.mark.parametrize(
    ("text", "account"),
    [
        (capabilities(("apparmor", "\n"), ("dac", "+64055:+64055")), GuestAccount(64055, 64055)),
        (capabilities(("selinux", "system_u:system_r:svirt_t:s0")), None),  # no DAC: qemu:///session
        ("<capabilities/>", None),
        ("not xml", None),
    ],
)
def test_the_account_of_guests_is_that_of_libvirt(text: str, account: GuestAccount | None) -> None:
    assert account_of(text) == account


@pytest.mark.parametrize("label", ["+0:+0", "root:root", ""])
def test_guests_never_run_as_root(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"libvirt-qemu": pwd.struct_passwd(("libvirt-qemu", "x", 64055, 107, "", "/", "/bin/false"))}
    monkeypatch.setattr(pwd, "getpwnam", known.__getitem__)
    assert account_of(capabilities(("none", ""), ("dac", label))) == GuestAccount(64055, 107)


GUEST = GuestAccount(2113929217, 2113929216)


@pytest.mark.parametrize(
    ("text", "account"),
    [
        # libvirt's directories let pass by its own group.
        (capabilities(("dac", "+64055:+64055")), GuestAccount(GUEST.uid, 64055)),
        (capabilities(("dac", f"+{GUEST.gid}:+{GUEST.gid}")), GUEST),  # a lab's own libvirt
        (capabilities(("dac", "+0:+0")), GuestAccount(GUEST.uid, 107)),
        (capabilities(("selinux", "system_u:system_r:svirt_t:s0")), None),
    ],
)
def test_each_guest_runs_as_its_own_user(
    text: str, account: GuestAccount | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"libvirt-qemu": pwd.struct_passwd(("libvirt-qemu", "x", 64055, 107, "", "/", "/bin/false"))}
    monkeypatch.setattr(pwd, "getpwnam", known.__getitem__)
    assert account_for(text, GUEST) == account
    assert account_for(text, None) == account_of(text)


def test_the_account_is_read_back_and_a_label_that_libvirt_made_up_is_none() -> None:
    def account(text: str) -> str:
        return read_domain(text, state=DomainState.SHUTOFF, autostart=False).account

    text = domain_xml(replace(REQUEST, account=GUEST))
    assert account(text) == GUEST.label and GuestAccount.of_label(GUEST.label) == GUEST
    assert account(domain_xml(REQUEST)) == ""
    live = text.replace('type="static" model="dac"', 'type="dynamic" model="dac"')
    assert live != text and account(live) == ""


@pytest.mark.parametrize("text", ["", "root:root", "+1", "+1:+2 ", "-1:+2", "+1:+2:+3", "+99999999999:+1"])
def test_no_other_text_is_an_account(text: str) -> None:
    assert GuestAccount.of_label(text) is None


def test_a_host_without_an_account_for_qemu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", dict[str, object]().__getitem__)
    with pytest.raises(HostNotFitError, match="no account for QEMU") as caught:
        guest_account()
    assert caught.value.fix == "apt-get install libvirt-daemon-system"


def test_a_domain_runs_as_the_account_and_nothing_changes_its_owner() -> None:
    root = xml_of(replace(REQUEST, account=GuestAccount(64055, 107)))
    labels = root.findall("seclabel")
    assert [label.attrib for label in labels] == [{"type": "static", "model": "dac", "relabel": "no"}]
    assert labels[0].findtext("label") == "+64055:+107"
    assert xml_of(REQUEST).find("seclabel") is None


class SystemLibvirt:
    """A libvirt connection of the driver's own user; keeps what is defined."""

    def __init__(self, text: str) -> None:
        self.text, self.asked, self.defined = text, 0, list[str]()

    def getLibVersion(self) -> int:  # noqa: N802 - libvirt's name
        return 9_000_000

    def getCapabilities(self) -> str:  # noqa: N802 - libvirt's name
        self.asked += 1
        return self.text

    def defineXML(self, xml: str) -> None:  # noqa: N802 - libvirt's name
        self.defined.append(xml)


@pytest.mark.parametrize(("label", "count"), [("+64055:+64055", 1), ("", 0)])
def test_a_domain_is_defined_for_the_user_that_its_files_belong_to(
    label: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirt = SystemLibvirt(capabilities(("dac", label)) if label else "<capabilities/>")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(LibvirtHypervisor, "_connect", lambda self: libvirt)
    monkeypatch.setattr(LibvirtHypervisor, "domain", lambda self, name: None)
    hypervisor = LibvirtHypervisor("qemu:///system")
    for _ in range(2):
        hypervisor.define_domain(REQUEST)
    assert [len(parse(xml, "domain").findall("seclabel")) for xml in libvirt.defined] == [count] * 2
    assert libvirt.asked == 1


def test_text_is_escaped_not_interpreted() -> None:
    hostile = "a b<'\"&</cmdline><evil/>"
    owner = Ownership('l"ab', "domain/<x>", "&")
    root = xml_of(replace(REQUEST, cmdline=hostile, owner=owner))
    assert root.findtext("os/cmdline") == hostile
    assert root.find(".//evil") is None
    assert read_owner(root) == owner


def credentials(value: str) -> list[str | None]:
    root = xml_of(replace(REQUEST, credentials={"n": value}))
    assert root.find("os/smbios[@mode='sysinfo']") is not None
    return [entry.text for entry in root.findall("sysinfo[@type='smbios']/oemStrings/entry")]


def test_credentials_are_oem_strings() -> None:
    assert credentials("ssh-ed25519 AAAA me") == ["io.systemd.credential:n=ssh-ed25519 AAAA me"]
    for value in ("two\nlines", "ümlaut", " blank "):
        encoded = base64.b64encode(value.encode()).decode()
        assert credentials(value) == [f"io.systemd.credential.binary:n={encoded}"]
    assert xml_of(replace(REQUEST, credentials={})).find("sysinfo") is None
    with pytest.raises(HypervisorError, match="credential"):
        domain_xml(replace(REQUEST, credentials={"a=b": "c"}))


def test_hostdevs() -> None:
    mdev = hostdev_element(MDEV)
    assert mdev.attrib == {"mode": "subsystem", "type": "mdev", "model": "vfio-pci"}
    assert mdev.find(f"source/address[@uuid='{MDEV.address}']") is not None
    function = hostdev_element(VF)
    assert function.attrib == {"mode": "subsystem", "type": "pci", "managed": "no"}
    address = function.find("source/address")
    assert address is not None
    assert address.attrib == {"domain": "0x0000", "bus": "0x41", "slot": "0x00", "function": "0x4"}
    assert hostdev_element(PCI).get("managed") == "yes"


@pytest.mark.parametrize(
    "hostdev",
    [
        Hostdev(HostdevKind.MDEV, "nope"),
        Hostdev(HostdevKind.PCI, "41:00.0"),
        Hostdev(HostdevKind.PCI, "0000:41:20.0"),
        Hostdev(HostdevKind.VFIO_VF, "0000:41:00.8"),
        Hostdev(HostdevKind.VFIO_VF, "0000:41:00.4\n"),
    ],
)
def test_bad_addresses_are_refused(hostdev: Hostdev) -> None:
    with pytest.raises(HypervisorError):
        hostdev_element(hostdev)


@pytest.mark.parametrize(
    ("unit", "value", "mib"), [("KiB", 65536, 64), ("GiB", 2, 2048), ("b", 1048576, 1), ("MiB", 7, 7)]
)
def test_memory_units(unit: str, value: int, mib: int) -> None:
    text = f"<domain><name>x</name><uuid>{REQUEST.uuid}</uuid><memory unit='{unit}'>{value}</memory></domain>"
    assert read_domain(text, state=DomainState.OTHER, autostart=True).memory_mib == mib


@pytest.mark.parametrize("text", ["", "<network/>", "not xml", "<domain>"])
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(HypervisorError):
        read_domain(text, state=DomainState.OTHER, autostart=False)


@pytest.mark.parametrize(
    "metadata", ["", "<metadata><o:owner xmlns:o='https://example.org' lab='l' resource='r'/></metadata>"]
)
def test_foreign_objects_have_no_owner(metadata: str) -> None:
    text = f"<domain><name>x</name><uuid>{REQUEST.uuid}</uuid>{metadata}</domain>"
    assert read_domain(text, state=DomainState.OTHER, autostart=False).owner is None


@pytest.mark.parametrize("nat", [False, True])
@pytest.mark.parametrize("hosts", [0, 2])
def test_a_network_is_read_back_as_it_was_written(nat: bool, hosts: int) -> None:
    names = (DnsName(IPv4Address("192.168.91.10"), ("x.cloud.demo.internal", "x")),)
    request = replace(GUESTS.network(hosts=hosts), nat=nat, names=names)
    text = network_xml(request)
    info = read_network(text, active=True)
    assert (info.name, info.uuid, info.owner) == (request.name, request.uuid, request.owner)
    assert (info.bridge, info.subnet, info.hosts) == (request.bridge, request.subnet, request.hosts)
    assert read_nat(text) is nat
    assert not info.filtered_by_libvirt
    assert info.names == request.names
    root = parse(text, "network")
    assert root.find("ip/dhcp/range") is None
    written = [name.text for name in root.findall("dns/host/hostname")]
    assert written == [*(host.name for host in request.hosts), *names[0].names]


def test_a_network_with_ipv6_is_read_back_as_it_was_written() -> None:
    names = (DnsName(IPv6Address("fd00:90::a"), ("n0",)), DnsName(IPv4Address("192.168.91.10"), ("x.cloud", "x")))
    plain = replace(GUESTS.network(hosts=1), names=names)
    request = replace(plain, subnet_v6=IPv6Network("fd00:90::/64"), gateway_v6=IPv6Address("fd00:90::1"))
    info = read_network(network_xml(request), active=True)
    assert (info.subnet_v6, info.gateway_v6, info.names) == (request.subnet_v6, request.gateway_v6, names)
    assert (info.subnet, info.gateway, info.hosts) == (request.subnet, request.gateway, request.hosts)
    (element,) = [each for each in parse(network_xml(request), "network").findall("ip") if each.get("family")]
    assert dict(element.attrib) == {"family": "ipv6", "address": "fd00:90::1", "prefix": "64"}
    assert len(element) == 0, "DHCP is for IPv4"
    without = read_network(network_xml(plain), active=True)
    assert (without.subnet_v6, without.gateway_v6) == (None, None)
    assert "family" not in network_xml(plain)


@pytest.mark.parametrize("prefix", ["129", "x"])
def test_an_ipv6_network_that_is_none_is_an_error(prefix: str) -> None:
    ip = f"<ip family='ipv6' address='fd00::1' prefix='{prefix}'/>"
    with pytest.raises(HypervisorError, match="invalid address"):
        read_network(f"<network><name>n</name><uuid>{REQUEST.uuid}</uuid>{ip}</network>", active=True)


def test_a_name_is_taken_away_by_its_address_alone() -> None:
    assert parse(dns_address_xml(IPv6Address("fd00::2")), "host").attrib == {"ip": "fd00::2"}
    assert "hostname" not in dns_address_xml(IPv6Address("fd00::2"))


@pytest.mark.parametrize("forward", ["", "<forward/>", "<forward mode='nat'/>", "<forward mode='route'/>"])
def test_networks_with_rules_of_libvirt_are_recognised(forward: str) -> None:
    text = f"<network><name>n</name><uuid>{REQUEST.uuid}</uuid>{forward}<bridge name='br9'/></network>"
    assert read_network(text, active=True).filtered_by_libvirt


def test_a_foreign_network_is_read_as_far_as_it_goes() -> None:
    text = (
        f"<network><name>n</name><uuid>{REQUEST.uuid}</uuid><bridge name='br9'/>"
        "<ip family='ipv6' address='fd00::1' prefix='64'/><ip address='10.0.0.1' prefix='8'>"
        "<dhcp><range start='10.0.0.2' end='10.0.0.9'/><host name='x' ip='10.0.0.5'/></dhcp></ip></network>"
    )
    info = read_network(text, active=False)
    assert (info.owner, info.bridge, info.subnet, info.hosts) == (None, "br9", IPv4Network("10.0.0.0/8"), ())
    assert (info.subnet_v6, info.gateway_v6) == (IPv6Network("fd00::/64"), IPv6Address("fd00::1"))
