"""Facts of the host from what the kernel prints."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from emulator.host.facts import MemoryFigures, _memory, limited_memory, parse_meminfo, read_host_facts
from emulator.host.routes import HostNetwork, parse_ipv6_routes, parse_routes, reached_networks

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
virbr0\t007AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0
tun0\t0000000A\t0102A8C0\t0003\t0\t0\t50\t000000FF\t0\t0\t0
torn line
eth0\tzzzz\t0\t0\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


def test_routes_become_networks_without_default_and_loopback() -> None:
    assert parse_routes(ROUTES) == (
        HostNetwork("eth0", IPv4Network("192.168.2.0/24")),
        HostNetwork("virbr0", IPv4Network("192.168.122.0/24")),
        HostNetwork("tun0", IPv4Network("10.0.0.0/8")),
    )
    assert parse_routes("") == ()


NONE, UNICAST, OWN = "0" * 32, "00000001", "80200001"
IPV6_ROUTES = "".join(
    f"{address:0<32} {prefix:02x} {NONE} 00 {NONE} 00000400 00000001 00000000 {flags} {interface:>8}\n"
    for address, prefix, flags, interface in (
        ("fd000122", 64, UNICAST, "wg0"),
        ("fd0001220000000000000000000000", 64, UNICAST, "wg0"),  # once more, by another metric
        ("fe80", 64, UNICAST, "eth0"),
        ("", 0, "00000003", "eth0"),
        ("ff", 8, UNICAST, "eth0"),
        ("00000000000000000000000000000001", 128, OWN, "lo"),
        ("fd000122000000000000000000000001", 128, OWN, "wg0"),
        ("fd000122000000000000000000000000", 128, "00300001", "wg0"),  # its anycast address
        ("20010db8000000000000000000000009", 128, OWN, "ppp0"),
        ("fc", 7, "00000003", "eth1"),  # the default route of all private networks
        ("fd00", 16, "00000003", "eth1"),
        ("fd000999", 32, "00200200", "lo"),  # a blackhole
    )
)


def test_ipv6_routes_become_networks_and_an_address_alone_counts() -> None:
    assert parse_ipv6_routes(IPV6_ROUTES + "torn line\n" + "z" * 32 + f" 40 {NONE} 00 {NONE} 1 1 0 1 eth0\n") == (
        HostNetwork("wg0", IPv6Network("fd00:122::/64")),
        HostNetwork("eth1", IPv6Network("fd00::/16")),
        HostNetwork("*", IPv6Network("fd00:999::/32")),
        HostNetwork("ppp0", IPv6Network("2001:db8::9/128")),
    )
    assert reached_networks("", "") == ()
    both = reached_networks(ROUTES, IPV6_ROUTES)
    assert [each.subnet.version for each in both] == [4, 4, 4, 6, 6, 6, 6]


def test_meminfo_is_read_in_mib() -> None:
    text = "MemTotal:       24684504 kB\nMemAvailable:   20480 kB\nHugePages_Total:       0\nbroken\n"
    assert parse_meminfo(text) == {"MemTotal": 24105, "MemAvailable": 20}


def test_a_control_group_limit_makes_the_host_smaller(tmp_path: Path) -> None:
    meminfo = "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n"
    assert _memory(meminfo, cgroup=tmp_path) == MemoryFigures(8192, 6144, 0)
    (tmp_path / "memory.max").write_text("max\n")
    assert _memory(meminfo, cgroup=tmp_path) == MemoryFigures(8192, 6144, 0)
    (tmp_path / "memory.max").write_text(f"{4 * 1024**3}\n")
    (tmp_path / "memory.current").write_text(f"{1024**3}\n")
    assert _memory(meminfo, cgroup=tmp_path) == MemoryFigures(4096, 3072, 0)


def test_a_limit_of_the_older_control_groups_counts_too(tmp_path: Path) -> None:
    meminfo = "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n"
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory/memory.limit_in_bytes").write_text(f"{4 * 1024**3}\n")
    (tmp_path / "memory/memory.usage_in_bytes").write_text(f"{1024**3}\n")
    assert _memory(meminfo, cgroup=tmp_path) == MemoryFigures(4096, 3072, 0)
    (tmp_path / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert _memory(meminfo, cgroup=tmp_path) == MemoryFigures(8192, 6144, 0)


def test_huge_pages_of_every_size_are_no_room_for_labs() -> None:
    meminfo = "MemTotal: 33554432 kB\nMemAvailable: 6291456 kB\nHugePages_Total: 512\nHugepagesize: 2048 kB\n"
    assert limited_memory(meminfo, limit="max", used="0") == MemoryFigures(32768, 6144, 1024)
    all_sizes = f"{meminfo}Hugetlb: 25165824 kB\n"
    assert limited_memory(all_sizes, limit="max", used="0") == MemoryFigures(32768, 6144, 24576)
    # A control group with a limit above what is left, and one below it.
    assert limited_memory(all_sizes, limit=str(16 * 1024**3), used="0") == MemoryFigures(16384, 6144, 8192)
    assert limited_memory(all_sizes, limit=str(4 * 1024**3), used="0") == MemoryFigures(4096, 4096, 0)


def test_this_machine_has_facts(tmp_path: Path) -> None:
    facts = read_host_facts(tmp_path / "not" / "there" / "yet")
    assert facts.cores >= 1
    assert 0 < facts.memory_available_mib <= facts.memory_total_mib
    assert facts.disk_free_gib > 0
    assert "lo" in facts.interfaces
