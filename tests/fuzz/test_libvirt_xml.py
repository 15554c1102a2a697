"""Domains, networks and capabilities as libvirt hands them out, those of others included."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from emulator.adapters.libvirt import network_xml as networks
from emulator.adapters.libvirt.domain_xml import domain_xml, read_domain
from emulator.adapters.libvirt.network_xml import network_xml, read_network
from emulator.adapters.system.acceleration import capabilities_offer_kvm
from emulator.core.ports import (
    DhcpHost,
    DnsName,
    DomainRequest,
    DomainState,
    Hostdev,
    HostdevKind,
    NetworkRequest,
    Ownership,
)
from tests.support.hostile_text import answered, changed, words
from tests.support.random_examples import examples

OWNER = Ownership("demo", "domain/a", "d1")
UUID_ = UUID("6c1e2bd6-9c3e-4b9a-8a39-0b8f6f2f1c11")
OURS = domain_xml(
    DomainRequest(
        name="demo-a",
        uuid=UUID_,
        owner=OWNER,
        vcpus=2,
        memory_mib=2048,
        disk=Path("/x/a.qcow2"),
        kernel=Path("/x/k"),
        initrd=Path("/x/i"),
        cmdline="quiet",
        network="demo-hpc",
        mac="52:54:00:00:00:01",
        console_log=Path("/x/a.log"),
        accelerated=False,
        credentials={"a": "b"},
        hostdevs=(Hostdev(HostdevKind.PCI, "0000:41:00.4"),),
    )
)
THEIRS = """<domain type='kvm' id='3'><name>elsewhere</name><uuid>6c1e2bd6-9c3e-4b9a-8a39-0b8f6f2f1c12</uuid>
<metadata><o:os xmlns:o='http://libosinfo.org/xmlns/libvirt/domain/1.0'><o:x/></o:os></metadata>
<memory unit='KiB'>4194304</memory><vcpu placement='static' current='2'>4</vcpu><devices>
<disk type='block' device='disk'><source dev='/dev/vg/x'/></disk>
<disk type='file' device='cdrom'><source file='/i'/></disk>
<filesystem><source dir='/'/></filesystem><hostdev type='usb'/><graphics type='vnc' listen='::'/>
<interface type='bridge'><mac address='52:54:00:aa:bb:cc'/></interface></devices><sysinfo type='smbios'><oemStrings>
<entry>io.systemd.credential.binary:a=YQ==</entry><entry>b</entry></oemStrings></sysinfo></domain>"""
NETWORKS = (
    network_xml(
        NetworkRequest(
            name="demo-hpc",
            uuid=UUID_,
            owner=OWNER,
            bridge="virbr100",
            subnet=IPv4Network("192.168.90.0/24"),
            gateway=IPv4Address("192.168.90.1"),
            dns_domain="hpc.lab",
            hosts=(DhcpHost("52:54:00:00:00:01", IPv4Address("192.168.90.10"), "a"),),
            names=(DnsName(IPv6Address("fd00:90::a"), ("a",)),),
            nat=True,
            subnet_v6=IPv6Network("fd00:90::/64"),
            gateway_v6=IPv6Address("fd00:90::1"),
        )
    ),
    """<network connections='1'><name>default</name><uuid>6c1e2bd6-9c3e-4b9a-8a39-0b8f6f2f1c13</uuid>
<forward mode='nat'><nat><port start='1024' end='65535'/></nat></forward><bridge name='virbr0' stp='on' delay='0'/>
<ip family='ipv6' address='fd00::1' prefix='64'/><ip address='192.168.122.1' netmask='255.255.255.0'><dhcp>
<range start='192.168.122.2' end='192.168.122.254'/><host mac='52:54:00:00:00:01' ip='192.168.122.9'/></dhcp></ip>
</network>""",
    "<network><name>n</name><uuid>6c1e2bd6-9c3e-4b9a-8a39-0b8f6f2f1c14</uuid>"
    "<ip address='10.0.0.1' prefix='8'/></network>",
)
BOMB = (
    "<!DOCTYPE d [<!ENTITY a 'x'>"
    + "".join(f"<!ENTITY a{n} '{'&a;' * 10}'>" for n in range(9))
    + "]><domain>&a8;</domain>"
)


@examples(50)
@given(changed([OURS, THEIRS, BOMB]) | words)
def test_a_domain(text: str) -> None:
    found = answered(read_domain, text, state=DomainState.RUNNING, autostart=False)
    if found is not None:
        assert found.vcpus >= 0
        assert found.memory_mib >= 0
        assert isinstance(found.uuid, UUID)


@st.composite
def field_changed(draw: st.DrawFn) -> str:
    """A domain in which one number or name has become something else."""
    old = draw(st.sampled_from(["4194304", ">4<", "6c1e2bd6-9c3e-4b9a-8a39-0b8f6f2f1c12", "KiB", "52:54:00:aa:bb:cc"]))
    new = draw(words.filter(lambda word: not set(word) & set("<&'\x00"))).join("><" if old[0] == ">" else ["", ""])
    return THEIRS.replace(old, new)


@examples(30)
@given(field_changed())
def test_a_domain_with_an_odd_value(text: str) -> None:
    answered(read_domain, text, state=DomainState.RUNNING, autostart=False)


@examples(50)
@given(changed(NETWORKS) | words)
def test_a_network(text: str) -> None:
    found = answered(read_network, text, active=True)
    if found is not None:
        assert all(host.mac for host in found.hosts)
    answered(networks.read_nat, text)
    answered(networks.read_gateway_and_domain, text)


@examples(25)
@given(changed(["<capabilities><guest><arch name='x86_64'><domain type='kvm'/></arch></guest></capabilities>"]) | words)
def test_capabilities(text: str) -> None:
    assert answered(capabilities_offer_kvm, text) in (True, False)
