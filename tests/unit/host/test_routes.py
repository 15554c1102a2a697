"""Default routes in pieces, routes that discard packets, and what they mean to a lab's networks."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import pytest

from emulator.host.checks import HostReport
from emulator.host.checks.result import HostCheckResult, Level
from emulator.host.facts import HostFacts
from emulator.host.feasibility import check_host as judge
from emulator.host.routes import HostNetwork, parse_ipv6_routes, parse_routes
from emulator.labfile.load import parse_spec
from emulator.operations.host.check import check_host
from tests.support import host_trees

HEADER = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"


def ipv4(*routes: tuple[str, str]) -> str:
    """`/proc/net/route` of (interface, network) pairs."""
    rows = []
    for interface, text in routes:
        net = IPv4Network(text)
        words = (f"{struct.unpack('=I', address.packed)[0]:08X}" for address in (net.network_address, net.netmask))
        destination, mask = words
        rows.append(f"{interface}\t{destination}\t00000000\t0001\t0\t0\t0\t{mask}\t0\t0\t0\n")
    return HEADER + "".join(rows)


def ipv6(*routes: tuple[str, str], flags: int = 1) -> str:
    none = "0" * 32
    return "".join(
        f"{net.network_address.packed.hex()} {net.prefixlen:02x} {none} 00 {none} 00000400 1 0 {flags:08x} {name:>8}\n"
        for name, net in ((name, IPv6Network(text)) for name, text in routes)
    )


def without(address: str) -> list[str]:
    """All addresses but one, as a VPN cuts them that must not carry its own packets."""
    return [str(net) for net in IPv4Network("0.0.0.0/0").address_exclude(IPv4Network(f"{address}/32"))]


@pytest.mark.parametrize(
    ("pieces", "others"),
    [
        (["0.0.0.0/0"], ["10.8.0.0/24"]),
        (["0.0.0.0/1", "128.0.0.0/1"], ["10.8.0.0/24", "10.0.0.0/8"]),
        (["0.0.0.0/1"], ["172.16.0.0/12"]),
        (["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "192.0.0.0/2"], ["192.168.0.0/16"]),
        (["1.0.0.0/8", "2.0.0.0/7", "4.0.0.0/6", "8.0.0.0/5", "16.0.0.0/4", "32.0.0.0/3", "64.0.0.0/2", "128.0.0.0/1"],
         ["10.8.0.0/24"]),
        (without("203.0.113.7"), ["10.8.0.0/24"]),
        (without("192.168.1.1"), []),
    ],
)  # fmt: skip
def test_a_default_route_in_pieces_is_a_default_route(pieces: list[str], others: list[str]) -> None:
    lan = ("eth0", "192.0.2.0/24")
    text = ipv4(lan, *(("tun0", each) for each in (*pieces, *others)))
    assert parse_routes(text) == (
        HostNetwork("eth0", IPv4Network("192.0.2.0/24")),
        *(HostNetwork("tun0", IPv4Network(each)) for each in others),
    )


def test_several_default_routes_and_networks_beside_them() -> None:
    text = ipv4(("eth0", "0.0.0.0/0"), ("eth1", "0.0.0.0/0"), ("wlan0", "0.0.0.0/1"), ("eth1", "10.0.0.0/8"))
    assert parse_routes(text) == (HostNetwork("eth1", IPv4Network("10.0.0.0/8")),)


@pytest.mark.parametrize(
    "pieces",
    [
        ["::/0"],
        ["::/1", "8000::/1"],
        ["2000::/3"],
        ["2000::/4", "3000::/4"],
        ["2000::/4", "fc00::/7"],
        ["fd00::/8"],
        ["2000::/5", "2800::/5", "3000::/4"],
    ],
)
def test_a_default_route_in_pieces_of_ipv6(pieces: list[str]) -> None:
    text = ipv6(*(("wg0", each) for each in pieces), ("wg0", "fd00:8::/64"), ("eth0", "2001:db8::/32"))
    assert parse_ipv6_routes(text) == (
        HostNetwork("wg0", IPv6Network("fd00:8::/64")),
        HostNetwork("eth0", IPv6Network("2001:db8::/32")),
    )


def test_ten_thousand_routes_take_no_long_time() -> None:
    networks = [IPv4Network((int(IPv4Address("11.0.0.0")) + 512 * number, 24)) for number in range(10_000)]
    assert len(parse_routes(ipv4(*(("eth0", str(net)) for net in networks)))) == 10_000


# ---------------------------------------------------------------- a lab among them
LAB = """version: "1.0"
metadata: {name: x}
global:
  networks:
    hpc_network: {subnet: 10.77.0.0/24, bridge: br5}
    cloud_network: {subnet: 10.78.0.0/24, bridge: br6, nat: NAT}
clusters: {hpc: {}, cloud: {}}
"""
ROOMY = HostFacts(cores=64, memory_total_mib=262144, memory_available_mib=262144, disk_free_gib=900.0)


def findings(routes: Iterable[HostNetwork], *, nat: bool = True, private: bool = False) -> dict[str, str]:
    spec, report = parse_spec(LAB.replace("NAT", str(nat).lower()), file="lab.yaml")
    assert spec is not None
    found = judge(spec, replace(ROOMY, networks=tuple(routes)), report=report, private_network=private)
    return {each.code: f"{each.severity}: {each.what} | {each.fix}" for each in found}


def test_a_lab_within_a_vpn_s_default_route_is_fine() -> None:
    assert findings(parse_routes(ipv4(("tun0", "0.0.0.0/1"), ("tun0", "128.0.0.0/1"), ("tun0", "10.8.0.0/24")))) == {}


@pytest.mark.parametrize(
    ("discarded", "conflict"), [("10.64.0.0/11", False), ("10.77.0.0/24", True), ("10.77.0.64/26", True)]
)
def test_discarded_networks_are_in_the_way_only_inside_of_a_lab_s(discarded: str, conflict: bool) -> None:
    found = findings(parse_routes(ipv4(("*", discarded))))
    assert set(found) == ({"host.subnet"} if conflict else set())
    if conflict:
        assert (
            f"10.77.0.0/24 overlaps {discarded}, which this host discards (a blackhole, unreachable or prohibit route)"
            in found["host.subnet"]
        )


def test_a_blackhole_of_ipv6_is_one_of_no_interface() -> None:
    assert parse_ipv6_routes(ipv6(("lo", "fd00:5::/32"), flags=0x200200)) == (
        HostNetwork("*", IPv6Network("fd00:5::/32")),
    )
    assert str(HostNetwork("*", IPv6Network("fd00:5::/32"))) == "fd00:5::/32 (discarded)"


@pytest.mark.parametrize(
    ("network", "code", "what"),
    [
        ("10.244.3.0/24", "host.pod-subnet", "10.244.3.0/24 (eth0) of this host lies in pod_subnet 10.244.0.0/16"),
        ("10.96.0.0/24", "host.service-subnet", "10.96.0.0/24 (eth0) of this host lies in service_subnet 10.96.0.0/12"),
        ("10.240.0.0/12", "host.pod-subnet", "10.240.0.0/12 (eth0) of this host overlaps pod_subnet 10.244.0.0/16"),
    ],
)
@pytest.mark.parametrize("private", [True, False])
def test_networks_that_pods_do_not_reach(network: str, code: str, what: str, private: bool) -> None:
    routes = parse_routes(ipv4(("eth0", network)))
    found = findings(routes, private=private)
    assert list(found) == [code]
    assert found[code].startswith(f"warning: {what}: pods do not reach it through NAT | choose another ")
    assert findings(routes, nat=False, private=private) == {}
    # What is advised is free.
    advised = IPv4Network(found[code].partition("such as ")[2].partition(",")[0])
    taken = [*routes, *(HostNetwork("lab", IPv4Network(each)) for each in ("10.77.0.0/24", "10.78.0.0/24"))]
    assert not any(advised.overlaps(each.subnet) for each in taken)


def _checked(tmp_path: Path, routes: str, id_: str) -> tuple[HostReport, HostCheckResult]:
    tmp_path.mkdir()
    file = tmp_path / "lab.yaml"
    file.write_text(LAB.replace("NAT", "true") + 'hypervisor: {uri: "qemu:///system"}\n')
    files = {"/proc/net/route": routes, "/run/libvirt/libvirt-sock": ""}
    root = host_trees.plant(tmp_path / "host", "amd", files=files, interfaces=["eth0", "lo", "tun0"])
    report = check_host(lambda: host_trees.read(root), file, None)
    return report, next(result for result in report.results if result.id == id_)


def test_host_check_knows_both(tmp_path: Path) -> None:
    vpn = ipv4(("eth0", "0.0.0.0/0"), ("eth0", "192.0.2.0/24"), ("tun0", "0.0.0.0/1"), ("tun0", "128.0.0.0/1"))
    report, subnets = _checked(tmp_path / "vpn", vpn, "network.subnets")
    assert (subnets.level, subnets.found) == (Level.PASS, "in use here: 192.0.2.0/24 (eth0)")
    assert not report.failed
    _, pods = _checked(tmp_path / "pods", ipv4(("eth0", "10.244.3.0/24")), "network.pods")
    assert pods.level is Level.WARN
    assert "10.244.3.0/24 (eth0) of this host lies in pod_subnet 10.244.0.0/16" in pods.found
