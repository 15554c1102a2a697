"""One suite for every packet filter: the simulated one, and nft with a real kernel in a namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emulator.adapters.simulated.packet_filter import SimulatedPacketFilter
from emulator.adapters.system.nft import NftPacketFilter
from emulator.adapters.system.process import HostProcess
from emulator.apply.firewall_rules import filter_table
from emulator.core.errors import CommandError
from emulator.core.ports import Ownership
from emulator.core.ports.packet_filter import FilterChain, FilterHook, FilterRule, FilterTable, PacketFilter
from emulator.plan.resources import FilteredNode, Firewall, FirewallRule, FirewallZone
from tests.support.waiting import PATIENCE

NAME = "hyperscaler_demo-2"
OWNER = Ownership("demo-2", "firewall/lab", "0123456789abcdef")


@pytest.fixture(scope="module")
def namespace() -> Iterator[tuple[str, ...]]:
    name = f"hst-f{os.getpid()}"
    runner = HostProcess()
    runner.run(["ip", "netns", "add", name], timeout=PATIENCE)
    yield ("ip", "netns", "exec", name)
    runner.run(["ip", "netns", "del", name], timeout=PATIENCE)


@pytest.fixture(params=["memory", "file", pytest.param("kernel", marks=pytest.mark.host)])
def packets(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PacketFilter]:
    if request.param == "kernel":
        made = NftPacketFilter(HostProcess(), request.getfixturevalue("namespace"))
        yield made
        made.delete(NAME)
    else:
        yield SimulatedPacketFilter(tmp_path / "nft.json" if request.param == "file" else None)


def table(*rules: str, hook: FilterHook | None = FilterHook.FORWARD, name: str = NAME) -> FilterTable:
    chain = FilterChain("forward", tuple(FilterRule(text, "a rule") for text in rules), hook)
    return FilterTable(name, OWNER, (FilterChain("other", (FilterRule("drop"),)), chain))


def zone(name: str, number: int, *, nat: bool, nodes: int = 2, ipv6: bool = False) -> FirewallZone:
    return FirewallZone(
        name=name,
        bridge=f"virbr{number}",
        subnet=f"10.{number}.0.0/24",
        gateway=f"10.{number}.0.1",
        nat=nat,
        nodes=tuple(
            FilteredNode(
                name=f"{name}-{index}",
                mac=f"52:54:00:00:{number:02x}:{index:02x}",
                ip=f"10.{number}.0.{index}",
                ip_v6=f"fd00:{number}::{index:x}" if ipv6 else "",
            )
            for index in range(10, 10 + nodes)
        ),
        subnet_v6=f"fd00:{number}::/64" if ipv6 else "",
        gateway_v6=f"fd00:{number}::1" if ipv6 else "",
    )


def test_a_table_that_was_never_made(packets: PacketFilter) -> None:
    assert packets.table(NAME) is None
    packets.delete(NAME)
    assert packets.table(NAME) is None


def test_a_table_is_made_reported_and_removed(packets: PacketFilter) -> None:
    packets.replace(table("accept"))
    info = packets.table(NAME)
    assert info is not None
    assert (info.name, info.owner, set(info.parts)) == (NAME, OWNER, {"owner", "other", "forward"})
    assert packets.table(NAME) == info
    packets.replace(table("accept"))
    assert packets.table(NAME) == info
    packets.delete(NAME)
    packets.delete(NAME)
    assert packets.table(NAME) is None


def test_a_replacement_leaves_nothing_of_the_old_table(packets: PacketFilter) -> None:
    packets.replace(table("accept"))
    before = packets.table(NAME)
    newer = replace(table("drop"), owner=replace(OWNER, digest="ffff"))
    packets.replace(replace(newer, chains=newer.chains[1:]))
    info = packets.table(NAME)
    assert before is not None and info is not None and info.owner is not None
    assert (info.owner.digest, set(info.parts)) == ("ffff", {"owner", "forward"})
    assert info.parts["forward"] != before.parts["forward"]


def test_tables_of_other_names_are_left_alone(packets: PacketFilter) -> None:
    other = "hyperscaler_demo"
    packets.replace(table("drop", name=other))
    packets.replace(table("accept"))
    before = packets.table(other)
    packets.delete(NAME)
    assert packets.table(other) == before is not None
    packets.delete(other)


@pytest.mark.parametrize(
    "rule",
    [
        "acept",
        "iifname accept",
        "goto nowhere",
        "ip saddr { } accept",
        "ip saddr { 10.0.0.1 accept",
        "ip saddr 10.0.0.256 accept",
        "ip6 saddr fd00::g accept",
        "icmpv6 type nd-router accept",
        'iifname "a-name-of-16-chr" accept',
        "tcp dport 65536 accept",
        "masquerade",
        "accept } chain more { type filter hook input priority 0; drop",
    ],
)
def test_a_bad_rule_is_refused_and_changes_nothing(packets: PacketFilter, rule: str) -> None:
    for before in (None, table("accept")):
        if before is not None:
            packets.replace(before)
        seen = packets.table(NAME)
        with pytest.raises(CommandError):
            packets.replace(table("drop", rule))
        assert packets.table(NAME) == seen


@pytest.mark.parametrize("ipv6", [(), ("hpc",), ("hpc", "cloud", "empty")])
def test_the_rules_of_a_lab_are_accepted(packets: PacketFilter, ipv6: tuple[str, ...]) -> None:
    """Everything that the program can write, and an order in the listing that does not change by itself."""
    zones = (
        zone("hpc", 100, nat=True, nodes=40, ipv6="hpc" in ipv6),
        zone("cloud", 200, nat=False, ipv6="cloud" in ipv6),
        zone("empty", 50, nat=False, nodes=0, ipv6="empty" in ipv6),
    )
    both = len(ipv6) > 1
    rules = tuple(
        FirewallRule(
            name=f'{protocol} "quoted" \\ {sources}',
            source_zone="hpc",
            target_zone="cloud",
            sources=(*sources, *(f"fd00:100::{n:x}" for n in range(10, 10 + len(sources) * both))),
            targets=(*targets, *(f"fd00:200::{n:x}" for n in range(10, 10 + len(targets) * both))),
            protocol=protocol,
            ports=() if protocol == "icmp" else ("80", "443", "8000-8100"),
        )
        for protocol in ("tcp", "udp", "icmp")
        for sources in ((), ("10.100.0.10",), ("10.100.0.10", "10.100.0.11"))
        for targets in ((), ("10.200.0.10", "10.200.0.11"))
    )
    firewall = Firewall(name="lab", table=NAME, zones=zones, rules=rules)
    owner = Ownership("demo-2", firewall.id, firewall.digest, "/var/lib/" + "a-long-name/" * 30)
    packets.replace(filter_table(owner, firewall))
    info = packets.table(NAME)
    assert info is not None
    assert info.owner == owner
    packets.replace(filter_table(owner, firewall))
    assert packets.table(NAME) == info


@pytest.mark.host
def test_changes_of_the_kernel_s_table_are_recognised(namespace: tuple[str, ...]) -> None:
    """Edits by hand are seen, whatever they are; what passes through is not."""
    runner = HostProcess()
    packets = NftPacketFilter(runner, namespace)

    def nft(*words: str) -> None:
        runner.run([*namespace, "nft", *words], timeout=PATIENCE)

    packets.replace(table("ct state established,related accept", "counter drop", hook=FilterHook.INPUT))
    made = packets.table(NAME)
    assert made is not None
    runner.run([*namespace, "ping", "-c", "1", "-W", "1", "127.0.0.1"], timeout=PATIENCE, check=False)
    assert packets.table(NAME) == made
    for edit, part in (
        (("add", "rule", "inet", NAME, "forward", "accept"), "forward"),
        (("add", "set", "inet", NAME, "more", "{ type ipv4_addr; }"), "set more"),
        (("add", "chain", "inet", NAME, "late", "{ type filter hook input priority 5; }"), "late"),
        (("flush", "chain", "inet", NAME, "other"), "other"),
    ):
        packets.replace(table("ct state established,related accept", "counter drop", hook=FilterHook.INPUT))
        assert packets.table(NAME) == made
        nft(*edit)
        info = packets.table(NAME)
        assert info is not None and info.owner == OWNER
        assert {name for name in {*made.parts, *info.parts} if made.parts.get(name) != info.parts.get(name)} == {part}
    nft("flush", "chain", "inet", NAME, "owner")
    info = packets.table(NAME)
    assert info is not None and info.owner is None
    packets.delete(NAME)


@pytest.mark.host
def test_a_namespace_that_is_gone_is_an_error_and_no_absent_table() -> None:
    packets = NftPacketFilter(HostProcess(), ("ip", "netns", "exec", "hst-never-made"))
    calls: tuple[Callable[[], object], ...] = (
        lambda: packets.table(NAME),
        lambda: packets.replace(table("accept")),
        lambda: packets.delete(NAME),
    )
    for call in calls:
        with pytest.raises(CommandError):
            call()
