"""One suite for every hypervisor: the simulated one, and a real private libvirtd with real QEMU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from uuid import uuid4

import pytest

from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor
from emulator.adapters.libvirt import errors
from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor
from emulator.adapters.libvirt.network_xml import dhcp_host_xml
from emulator.adapters.simulated.disks import SimulatedDisks
from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.qemu_img import QemuImg
from emulator.core.errors import ConflictError, HypervisorError
from emulator.core.ports import DhcpHost, DiskTool, DnsName, DomainInfo, DomainRequest, DomainState, Hypervisor
from tests.support.tiny_guest import TinyGuests, with_digest


@dataclass
class Bench:
    hypervisor: Hypervisor
    disks: DiskTool
    guests: TinyGuests
    base: Path

    def domain(self, name: str = "a", *, network: str = "net", index: int = 1) -> DomainRequest:
        disk = self.guests.root / f"{name}.qcow2"
        if not disk.exists():
            self.disks.create_overlay(disk, base=self.base, size_gib=1)
        return self.guests.domain(name, disk=disk, network=network, index=index)


@pytest.fixture(scope="module")
def libvirt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hypervisor]:
    directory = tmp_path_factory.mktemp("hv") / "h"
    top = tmp_path_factory.getbasetemp()
    daemon = EmbeddedHypervisor(directory, f"hst-c{os.getpid()}", HostProcess(), writable=(top,))
    try:
        connection = LibvirtHypervisor(daemon.start(), daemon.guest_command_prefix())
        connection.admit_guests([top])
        yield connection
        connection.close()
    finally:
        daemon.stop()


@pytest.fixture(params=["memory", "file", pytest.param("libvirt", marks=pytest.mark.host)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    guests = TinyGuests.prepare(tmp_path / "lab")
    base = tmp_path / "base.qcow2"
    if request.param == "libvirt":
        runner = HostProcess()
        runner.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "64M"], timeout=30)
        hypervisor: Hypervisor = request.getfixturevalue("libvirt")
        hypervisor.admit_guests([tmp_path])
        yield Bench(hypervisor, QemuImg(runner), guests, base)
        for domain in hypervisor.domains():
            hypervisor.delete_domain(domain.name)
        for network in hypervisor.networks():
            hypervisor.delete_network(network.name)
    else:
        base.write_bytes(b"image")
        state = tmp_path / "state.json" if request.param == "file" else None
        yield Bench(SimulatedHypervisor(state), SimulatedDisks(), guests, base)


def state_of(bench: Bench, name: str) -> DomainState:
    info = bench.hypervisor.domain(name)
    assert info is not None
    return info.state


def pause(hypervisor: Hypervisor, name: str) -> None:
    """Behind the adapter's back."""
    if isinstance(hypervisor, SimulatedHypervisor):
        hypervisor.set_state(name, DomainState.PAUSED)
    else:
        assert isinstance(hypervisor, LibvirtHypervisor)
        hypervisor._connect().lookupByName(name).suspend()


def lose_reservation(hypervisor: Hypervisor, network: str, host: DhcpHost) -> None:
    """`virsh net-update --live`."""
    text = dhcp_host_xml(host)
    if isinstance(hypervisor, SimulatedHypervisor):
        hypervisor.edit(network, text, "", live=True)
    else:
        assert isinstance(hypervisor, LibvirtHypervisor)
        handle = hypervisor._connect().networkLookupByName(network)
        section = errors.load_libvirt().VIR_NETWORK_SECTION_IP_DHCP_HOST
        handle.update(2, section, -1, text, 1)  # delete, live


def edit(hypervisor: Hypervisor, name: str, old: str, new: str) -> None:
    """`virsh edit`."""
    if isinstance(hypervisor, SimulatedHypervisor):
        hypervisor.edit(name, old, new)
    else:
        assert isinstance(hypervisor, LibvirtHypervisor)
        connection = hypervisor._connect()
        text = connection.lookupByName(name).XMLDesc()
        assert old in text
        connection.defineXML(text.replace(old, new))


# ------------------------------------------------------------------ domains
def test_a_defined_domain_is_reported_as_it_was_asked_for(bench: Bench) -> None:
    request = bench.domain()
    bench.hypervisor.define_domain(request)
    info = bench.hypervisor.domain("a")
    assert info is not None
    assert (info.name, info.uuid, info.state) == ("a", request.uuid, DomainState.SHUTOFF)
    assert info.owner == request.owner
    assert (info.vcpus, info.memory_mib, info.macs) == (1, 64, (request.mac,))
    assert info.disks == (request.disk,)
    assert not info.autostart
    assert bench.hypervisor.domains() == (info,)


def test_start_and_delete_can_be_repeated(bench: Bench) -> None:
    bench.hypervisor.define_network(bench.guests.network())
    bench.hypervisor.define_domain(bench.domain())
    bench.hypervisor.start_domain("a")
    bench.hypervisor.start_domain("a")
    assert state_of(bench, "a") is DomainState.RUNNING
    bench.hypervisor.delete_domain("a")
    assert bench.hypervisor.domain("a") is None
    bench.hypervisor.delete_domain("a")
    assert bench.hypervisor.domains() == ()


def test_a_domain_of_the_same_uuid_is_redefined(bench: Bench) -> None:
    request = bench.domain()
    bench.hypervisor.define_domain(request)
    bench.hypervisor.define_domain(with_digest(replace(request, memory_mib=96, vcpus=2), "d2"))
    info = bench.hypervisor.domain("a")
    assert info is not None
    assert info.owner is not None
    assert (info.memory_mib, info.vcpus, info.owner.digest) == (96, 2, "d2")
    assert len(bench.hypervisor.domains()) == 1


def test_a_name_or_uuid_that_is_taken_is_a_conflict(bench: Bench) -> None:
    request = bench.domain()
    bench.hypervisor.define_domain(request)
    with pytest.raises(ConflictError):
        bench.hypervisor.define_domain(replace(request, uuid=uuid4()))
    with pytest.raises(ConflictError):
        bench.hypervisor.define_domain(replace(request, name="b"))
    assert [info.uuid for info in bench.hypervisor.domains()] == [request.uuid]


def test_two_domains_may_be_defined_with_one_mac(bench: Bench) -> None:
    """libvirt does not mind, so keeping addresses apart is the planner's duty."""
    bench.hypervisor.define_domain(bench.domain("a", index=1))
    bench.hypervisor.define_domain(bench.domain("b", index=1))
    assert {info.macs for info in bench.hypervisor.domains()} == {("52:54:00:00:00:01",)}


def test_start_needs_the_network(bench: Bench) -> None:
    bench.hypervisor.define_domain(bench.domain())
    with pytest.raises(HypervisorError, match="net"):
        bench.hypervisor.start_domain("a")
    assert state_of(bench, "a") is DomainState.SHUTOFF


def test_start_needs_the_disk_and_what_is_under_it(bench: Bench) -> None:
    bench.hypervisor.define_network(bench.guests.network())
    request = bench.domain()
    bench.hypervisor.define_domain(request)
    bench.base.rename(bench.base.with_suffix(".away"))
    with pytest.raises(HypervisorError):
        bench.hypervisor.start_domain("a")
    bench.base.with_suffix(".away").rename(bench.base)
    request.disk.unlink()
    with pytest.raises(HypervisorError):
        bench.hypervisor.start_domain("a")
    assert state_of(bench, "a") is DomainState.SHUTOFF


def test_start_needs_the_kernel(bench: Bench) -> None:
    bench.hypervisor.define_network(bench.guests.network())
    request = replace(bench.domain(), kernel=bench.guests.root / "absent")
    bench.hypervisor.define_domain(request)
    with pytest.raises(HypervisorError):
        bench.hypervisor.start_domain("a")


def test_an_absent_domain_cannot_start_but_can_be_shut_down(bench: Bench) -> None:
    with pytest.raises(HypervisorError) as caught:
        bench.hypervisor.start_domain("absent")
    assert caught.value.where == "domain absent"
    bench.hypervisor.shutdown_domain("absent", timeout=1)
    assert bench.hypervisor.domain("absent") is None


def test_a_guest_that_hears_nothing_is_off_after_the_deadline(bench: Bench) -> None:
    bench.hypervisor.define_network(bench.guests.network())
    bench.hypervisor.define_domain(bench.domain())
    bench.hypervisor.start_domain("a")
    bench.hypervisor.shutdown_domain("a", timeout=0.5)
    assert state_of(bench, "a") is DomainState.SHUTOFF
    bench.hypervisor.shutdown_domain("a", timeout=0.5)


def test_a_domain_is_found_by_its_uuid_under_any_name(bench: Bench) -> None:
    request = bench.domain()
    bench.hypervisor.define_network(bench.guests.network())
    bench.hypervisor.define_domain(request)
    assert bench.hypervisor.domain_by_uuid(request.uuid) == bench.hypervisor.domain("a")
    assert bench.hypervisor.domain_by_uuid(uuid4()) is None
    bench.hypervisor.rename_domain("a", "b")
    info = bench.hypervisor.domain_by_uuid(request.uuid)
    assert info is not None and (info.name, info.owner) == ("b", request.owner)
    assert bench.hypervisor.domain("a") is None
    bench.hypervisor.define_domain(bench.domain("c", index=2))
    with pytest.raises(ConflictError):
        bench.hypervisor.rename_domain("b", "c")
    bench.hypervisor.start_domain("b")
    with pytest.raises(HypervisorError):
        bench.hypervisor.rename_domain("b", "a")


def test_only_a_guest_that_runs_is_paused(bench: Bench) -> None:
    bench.hypervisor.define_network(bench.guests.network())
    bench.hypervisor.define_domain(bench.domain())
    bench.hypervisor.pause_domain("a")
    bench.hypervisor.pause_domain("absent")
    assert state_of(bench, "a") is DomainState.SHUTOFF and bench.hypervisor.domain("absent") is None
    bench.hypervisor.start_domain("a")
    for _ in range(2):
        bench.hypervisor.pause_domain("a")
        assert state_of(bench, "a") is DomainState.PAUSED
    bench.hypervisor.start_domain("a")
    assert state_of(bench, "a") is DomainState.RUNNING


def test_a_paused_guest_goes_on(bench: Bench) -> None:
    bench.hypervisor.define_network(bench.guests.network())
    bench.hypervisor.define_domain(bench.domain())
    bench.hypervisor.start_domain("a")
    pause(bench.hypervisor, "a")
    assert state_of(bench, "a") is DomainState.PAUSED
    bench.hypervisor.start_domain("a")
    assert state_of(bench, "a") is DomainState.RUNNING
    pause(bench.hypervisor, "a")
    bench.hypervisor.shutdown_domain("a", timeout=0.5)
    assert state_of(bench, "a") is DomainState.SHUTOFF


def settings(info: DomainInfo) -> dict[str, object]:
    """What is compared with the record: it must not differ between what was asked for, is stored, and runs."""
    passing = {"state", "live", "autostart", "cpu_seconds"}
    return {field.name: getattr(info, field.name) for field in fields(info) if field.name not in passing}


def test_nothing_of_a_domain_is_changed_by_libvirt_itself(bench: Bench) -> None:
    request = bench.domain()
    bench.hypervisor.define_network(bench.guests.network())
    bench.hypervisor.define_domain(request)
    stored = bench.hypervisor.domain("a")
    bench.hypervisor.start_domain("a")
    bench.hypervisor.define_domain(request)  # also while it runs: the guest goes on
    running = bench.hypervisor.domain("a")
    assert stored is not None and running is not None and running.live is not None
    assert settings(stored) == settings(running) == settings(running.live)
    assert (stored.initrd, stored.cmdline) == (str(request.initrd), request.cmdline)
    assert (stored.console_log, stored.accelerated) == (str(request.console_log), False)
    assert (dict(stored.credentials), stored.extras) == (request.credentials, ())
    assert running.state is DomainState.RUNNING


ADDED = {
    "a block disk (/dev/sdz)": '<disk type="block" device="disk"><source dev="/dev/sdz"/><target dev="vdb"/></disk>',
    "a file cdrom (/x.iso)": '<disk type="file" device="cdrom"><source file="/x.iso"/><target dev="sda"/></disk>',
    "a file cdrom (empty)": '<disk type="file" device="cdrom"><target dev="sda" bus="sata"/></disk>',
    "a network disk (a/b)": '<disk type="network" device="disk"><source protocol="rbd" name="a/b"/>'
    '<target dev="vdc" bus="virtio"/></disk>',
    "the directory /srv of the host": '<filesystem type="mount"><source dir="/srv"/><target dir="host"/></filesystem>',
    "a vnc display on 0.0.0.0": '<graphics type="vnc" port="5900" listen="0.0.0.0"/>',
    "a channel device": '<channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0"/></channel>',
}


@pytest.mark.parametrize("phrase", ADDED)
def test_what_is_added_to_a_domain_is_seen(bench: Bench, phrase: str) -> None:
    bench.hypervisor.define_domain(bench.domain())
    edit(bench.hypervisor, "a", "</devices>", f"{ADDED[phrase]}</devices>")
    info = bench.hypervisor.domain("a")
    assert info is not None and info.extras == (phrase,)


EDITS: dict[str, tuple[str, str, dict[str, object]]] = {
    "initrd": ("/initrd<", "/initrd.other<", {}),
    "cmdline": ("console=ttyS0", "console=ttyS0 init=/bin/sh", {"cmdline": "console=ttyS0 init=/bin/sh"}),
    "console_log": ("/a.log", "/b.log", {}),
    "credentials": ("AAAA a,b=c", "EVIL", {"credentials": (("lab.authorized_key", "ssh-ed25519 EVIL"),)}),
    "extras": ("writeback", "unsafe", {}),
}


@pytest.mark.parametrize("field", EDITS)
def test_what_is_edited_in_a_domain_is_seen(bench: Bench, field: str) -> None:
    bench.hypervisor.define_domain(bench.domain())
    before = bench.hypervisor.domain("a")
    old, new, expected = EDITS[field]
    edit(bench.hypervisor, "a", old, new)
    after = bench.hypervisor.domain("a")
    assert before is not None and after is not None
    changed = {key: value for key, value in settings(after).items() if settings(before)[key] != value}
    assert changed.keys() == {field}
    assert expected.items() <= changed.items()


def test_domains_can_be_made_from_many_threads(bench: Bench) -> None:
    bench.hypervisor.define_network(bench.guests.network(hosts=4))
    requests = [bench.domain(f"t{index}", index=index) for index in range(1, 5)]

    def make(request: DomainRequest) -> None:
        bench.hypervisor.define_domain(request)
        bench.hypervisor.start_domain(request.name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, requests))
    assert [info.state for info in bench.hypervisor.domains()] == [DomainState.RUNNING] * 4
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bench.hypervisor.delete_domain, [request.name for request in requests]))
    assert bench.hypervisor.domains() == ()


# ----------------------------------------------------------------- networks
def test_a_network_is_defined_started_and_reported(bench: Bench) -> None:
    request = bench.guests.network()
    bench.hypervisor.define_network(request)
    bench.hypervisor.define_network(request)
    bench.hypervisor.start_network("net")
    info = bench.hypervisor.network("net")
    assert info is not None
    assert (info.name, info.uuid, info.active) == ("net", request.uuid, True)
    assert info.owner == request.owner
    assert (info.bridge, info.subnet, info.hosts) == ("hsbr0", request.subnet, request.hosts)
    assert bench.hypervisor.networks() == (info,)
    assert bench.hypervisor.network_by_uuid(request.uuid) == info
    assert bench.hypervisor.network_by_uuid(uuid4()) is None


def test_reservations_come_and_go(bench: Bench) -> None:
    first = bench.guests.network(hosts=2)
    bench.hypervisor.define_network(first)
    moved = DhcpHost("52:54:00:00:00:01", IPv4Address("192.168.90.50"), "n1")
    new = DhcpHost("52:54:00:00:00:07", IPv4Address("192.168.90.17"), "n7")
    second = replace(first, hosts=(moved, new), owner=replace(first.owner, digest="d2"))
    bench.hypervisor.define_network(second)
    info = bench.hypervisor.network("net")
    assert info is not None
    assert info.active
    assert info.hosts == (moved, new)
    assert info.owner == second.owner


def test_a_reservation_that_is_lost_while_the_network_runs_comes_back(bench: Bench) -> None:
    request = replace(
        bench.guests.network(hosts=2), names=(DnsName(IPv4Address("192.168.91.11"), ("m1.other.internal", "m1")),)
    )
    bench.hypervisor.define_network(request)
    made = bench.hypervisor.network("net")
    assert made is not None and made.live is not None
    assert (made.live.hosts, made.live.names) == (made.hosts, made.names) == (request.hosts, request.names)
    lose_reservation(bench.hypervisor, "net", request.hosts[0])
    edited = bench.hypervisor.network("net")
    assert edited is not None and edited.live is not None
    assert (edited.hosts, edited.live.hosts) == (request.hosts, request.hosts[1:])
    bench.hypervisor.define_network(request)
    mended = bench.hypervisor.network("net")
    assert mended is not None and mended.live is not None
    assert set(mended.live.hosts) == set(mended.hosts) == set(request.hosts)


def test_names_without_a_reservation_come_and_go(bench: Bench) -> None:
    def names(index: int, *, ip: int) -> DnsName:
        return DnsName(IPv4Address(f"192.168.91.{ip}"), (f"m{index}.other.internal", f"m{index}"))

    first = replace(bench.guests.network(hosts=1), names=(names(1, ip=11), names(2, ip=12)))
    bench.hypervisor.define_network(first)
    for wanted in ((names(1, ip=12), names(3, ip=11)), (names(3, ip=11),), ()):
        bench.hypervisor.define_network(replace(first, names=wanted))
        info = bench.hypervisor.network("net")
        assert info is not None
        assert (info.active, info.names, info.hosts) == (True, wanted, first.hosts)
        assert not info.filtered_by_libvirt


def test_ipv6_names_come_and_go_next_to_those_of_ipv4(bench: Bench) -> None:
    """Of one name there are two addresses, and each goes by itself."""

    def pair(index: int) -> tuple[DnsName, DnsName]:
        names = (f"m{index}.other.internal", f"m{index}")
        return DnsName(IPv4Address(f"192.168.91.{index}"), names), DnsName(IPv6Address(f"fd00:91::{index}"), names)

    own = DnsName(IPv6Address("fd00:90::b"), ("n1",))
    first = replace(
        bench.guests.network(hosts=1),
        names=(own, *pair(11), *pair(12)),
        subnet_v6=IPv6Network("fd00:90::/64"),
        gateway_v6=IPv6Address("fd00:90::1"),
    )
    bench.hypervisor.define_network(first)
    for wanted in ((own, *pair(12)), (own, pair(12)[0]), (own, *pair(12), *pair(13)), pair(13), ()):
        bench.hypervisor.define_network(replace(first, names=wanted))
        info = bench.hypervisor.network("net")
        assert info is not None and info.live is not None
        assert set(info.names) == set(info.live.names) == set(wanted)
        assert (info.active, info.hosts, info.live.hosts) == (True, first.hosts, first.hosts)
        assert (info.subnet_v6, info.gateway_v6) == (first.subnet_v6, first.gateway_v6)
    # A reservation goes while the IPv6 address of its name stays.
    other = DhcpHost("52:54:00:00:00:07", IPv4Address("192.168.90.17"), "n7")
    bench.hypervisor.define_network(replace(first, names=(own,)))
    bench.hypervisor.define_network(replace(first, names=(own,), hosts=(other,)))
    info = bench.hypervisor.network("net")
    assert info is not None and info.live is not None
    assert (info.live.names, info.live.hosts) == (info.names, info.hosts) == ((own,), (other,))


def test_another_ipv6_subnet_restarts_the_network(bench: Bench) -> None:
    first = bench.guests.network(hosts=0)
    for subnet in (None, IPv6Network("fd00:90::/64"), IPv6Network("fd00:91::/64"), None):
        gateway = None if subnet is None else subnet[1]
        bench.hypervisor.define_network(replace(first, subnet_v6=subnet, gateway_v6=gateway))
        info = bench.hypervisor.network("net")
        assert info is not None and info.live is not None
        assert (info.active, info.subnet_v6, info.gateway_v6) == (True, subnet, gateway)
        assert (info.live.subnet_v6, info.live.gateway_v6) == (subnet, gateway)


def test_first_and_last_reservation(bench: Bench) -> None:
    for hosts in (0, 1, 0):
        bench.hypervisor.define_network(bench.guests.network(hosts=hosts))
        info = bench.hypervisor.network("net")
        assert info is not None
        assert (info.active, len(info.hosts)) == (True, hosts)


def test_another_subnet_restarts_the_network(bench: Bench) -> None:
    first = bench.guests.network(hosts=0)
    bench.hypervisor.define_network(first)
    changed = replace(first, subnet=IPv4Network("192.168.91.0/24"), gateway=IPv4Address("192.168.91.1"))
    bench.hypervisor.define_network(changed)
    info = bench.hypervisor.network("net")
    assert info is not None
    assert (info.active, info.subnet) == (True, changed.subnet)


def test_a_network_name_uuid_or_bridge_that_is_taken_is_a_conflict(bench: Bench) -> None:
    request = bench.guests.network()
    bench.hypervisor.define_network(request)
    with pytest.raises(ConflictError):
        bench.hypervisor.define_network(replace(request, uuid=uuid4()))
    with pytest.raises(ConflictError):
        bench.hypervisor.define_network(replace(request, name="other", bridge="hsbr1"))
    other = bench.guests.network("other", bridge="hsbr0")
    with pytest.raises(ConflictError, match="hsbr0"):
        bench.hypervisor.define_network(other)
    assert [info.name for info in bench.hypervisor.networks()] == ["net"]


def test_deleting_a_network_can_be_repeated(bench: Bench) -> None:
    bench.hypervisor.define_network(bench.guests.network())
    bench.hypervisor.delete_network("net")
    bench.hypervisor.delete_network("net")
    assert bench.hypervisor.network("net") is None
    with pytest.raises(HypervisorError):
        bench.hypervisor.start_network("net")
