"""The rules of a lab's table, line by line."""

from __future__ import annotations

import dataclasses
import json

from emulator.adapters.system.nft_text import read_table, replacement
from emulator.apply.firewall_rules import filter_table
from emulator.core import ids
from emulator.core.ports import Ownership
from emulator.labfile.load import parse_spec
from emulator.labfile.model import ClusterKind, ClusterSpec
from emulator.plan.firewall_build import aliases_for, build_firewall
from emulator.plan.model import Action, Change, Plan
from emulator.plan.resources import Domain, Firewall, Network, resource_from_json
from emulator.plan.steps import steps_of

OWNER = Ownership("demo", "firewall/lab", "0123456789abcdef")
TEXT = """\
version: "1.0"
metadata: {name: demo}
global:
  networks:
    hpc_network:
      nat: true
      allow:
        - {from: [hpc-compute], to: [cloud-control-plane], ports: [443, 6443, "440-445"]}
        - {protocol: icmp}
        - {protocol: icmp}
    cloud_network:
      allow: [{to: [hpc-controller], protocol: udp, ports: [53]}]
clusters: {hpc: {compute_nodes: {count: 2}}, cloud: {}}
"""


def spec_of(text: str = TEXT) -> ClusterSpec:
    spec, report = parse_spec(text, file="lab.yaml")
    assert spec is not None, [finding.render() for finding in report.findings]
    return spec


def rules(chain: str, firewall: Firewall) -> list[str]:
    (found,) = [each for each in filter_table(OWNER, firewall).chains if each.name == chain]
    return [rule.text for rule in found.rules]


WAY_OUT = 'iifname "virbr100" oifname != { "virbr100", "virbr200" }'
REJECT = "counter reject with icmpx admin-prohibited"
NEVER = "0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3"
NEVER_V6 = "::/96, ::ffff:0:0/96, 64:ff9b::/96, 64:ff9b:1::/48, 2002::/16, fe80::/10, ff00::/8"
PRIVATE = "10.0.0.0/8, 100.64.0.0/10, 172.16.0.0/12, 192.168.0.0/16, 198.18.0.0/15"


def out(*listed: str, ipv6: bool = False) -> list[str]:
    """The rules by which the Slurm network goes out; `listed` are the accepts of private ranges."""
    return [
        f"{WAY_OUT} ip daddr {{ {NEVER} }} {REJECT}",
        *([f"{WAY_OUT} ip6 daddr {{ {NEVER_V6} }} {REJECT}"] if ipv6 else []),
        *(f"{WAY_OUT} {rule} accept" for rule in listed),
        f"{WAY_OUT} ip daddr {{ {PRIVATE} }} {REJECT}",
        *([f"{WAY_OUT} ip6 daddr {{ fc00::/7, fec0::/10 }} {REJECT}"] if ipv6 else []),
        f"{WAY_OUT} accept",
    ]


def with_private(firewall: Firewall, *ranges: str) -> Firewall:
    zones = tuple(dataclasses.replace(zone, nat_private=ranges) for zone in firewall.zones)
    return dataclasses.replace(firewall, zones=zones)


def test_private_ranges_are_reached_only_where_they_are_listed() -> None:
    firewall = with_private(build_firewall(spec_of(), ()), "10.1.0.0/16", "192.168.7.0/24")
    routed = rules("routed", firewall)
    expected = out("ip daddr { 10.1.0.0/16, 192.168.7.0/24 }")
    assert routed[-len(expected) - 1 : -1] == expected


def test_private_ranges_are_listed_by_family() -> None:
    routed = rules("routed", with_private(dual(), "10.1.0.0/16", "fd12::/32"))
    expected = out("ip daddr { 10.1.0.0/16 }", "ip6 daddr { fd12::/32 }", ipv6=True)
    assert routed[-len(expected) - 1 : -1] == expected


def test_what_is_listed_does_not_open_link_local_addresses() -> None:
    routed = rules("routed", with_private(build_firewall(spec_of(), ()), "169.254.169.254/32"))
    refused = next(index for index, rule in enumerate(routed) if "169.254.0.0/16" in rule and REJECT in rule)
    accepted = next(index for index, rule in enumerate(routed) if "169.254.169.254/32" in rule)
    assert refused < accepted


def test_a_lab_without_listed_ranges_is_recorded_as_before() -> None:
    plain = build_firewall(spec_of(), ())
    assert "nat_private" not in json.dumps(plain.to_json())
    listed = with_private(plain, "10.1.0.0/16")
    assert resource_from_json(listed.to_json()) == listed


def test_what_is_routed() -> None:
    assert rules("routed", build_firewall(spec_of(), ())) == [
        'iifname "virbr100" oifname "virbr100" accept',
        'iifname "virbr200" oifname "virbr200" accept',
        "meta nfproto ipv6 counter drop",
        "jump spoofed",
        "ct state established,related accept",
        'iifname "virbr100" oifname "virbr200" ip saddr { 192.168.100.11, 192.168.100.12 }'
        " ip daddr { 192.168.200.10 } tcp dport { 440-445, 6443 } accept",
        'iifname "virbr100" oifname "virbr200" ip daddr 192.168.200.0/24 icmp type echo-request accept',
        'iifname "virbr200" oifname "virbr100" ip daddr { 192.168.100.10 } udp dport { 53 } accept',
        *out(),
        "counter reject with icmpx admin-prohibited",
    ]


def test_what_guests_may_ask_of_the_host() -> None:
    assert rules("guest_to_host", build_firewall(spec_of(), ())) == [
        "meta nfproto ipv6 counter drop",
        "meta nfproto ipv4 udp sport 68 udp dport 67 accept",
        "jump spoofed",
        "ct state established,related accept",
        'iifname "virbr100" ip daddr 192.168.100.1 udp dport 53 accept',
        'iifname "virbr100" ip daddr 192.168.100.1 tcp dport 53 accept',
        'iifname "virbr200" ip daddr 192.168.200.1 udp dport 53 accept',
        'iifname "virbr200" ip daddr 192.168.200.1 tcp dport 53 accept',
        "counter reject with icmpx admin-prohibited",
    ]


def test_every_base_chain_looks_at_the_lab_s_own_bridges_alone() -> None:
    firewall = build_firewall(spec_of(), ())
    bridges = '{ "virbr100", "virbr200" }'
    assert rules("input", firewall) == [f"iifname {bridges} goto guest_to_host"]
    assert rules("forward", firewall) == [f"iifname {bridges} goto routed", f"oifname {bridges} goto routed"]
    assert rules("postrouting", firewall) == [
        f"ip saddr 192.168.100.0/24 ip saddr != 192.168.100.1 oifname != {bridges} masquerade"
    ]


def test_without_nat_nothing_is_rewritten() -> None:
    firewall = build_firewall(spec_of(TEXT.replace("nat: true", "nat: false")), ())
    assert rules("postrouting", firewall) == []
    assert not any("oifname !=" in rule for rule in rules("routed", firewall))


def test_a_node_is_known_by_both_of_its_addresses() -> None:
    hpc, cloud = rules("spoofed", build_firewall(spec_of(), ()))
    assert hpc.startswith('iifname "virbr100" ether saddr . ip saddr != { 52:54:00:')
    assert hpc.count("192.168.100.1") == 3 and hpc.endswith("} counter drop")
    assert cloud.startswith('iifname "virbr200"')
    nobody = build_firewall(spec_of(), ()).zones[0]
    empty = Firewall(name="lab", table="t", zones=(dataclasses.replace(nobody, nodes=()),), rules=())
    assert rules("spoofed", empty) == ['iifname "virbr100" counter drop']


HPC_V6, CLOUD_V6 = "      subnet_v6: fd00:100::/64\n", "      subnet_v6: fd00:200::/64\n"


def dual(*, hpc: bool = True, cloud: bool = True) -> Firewall:
    text = TEXT.replace("    hpc_network:\n", f"    hpc_network:\n{HPC_V6 if hpc else ''}")
    return build_firewall(
        spec_of(text.replace("    cloud_network:\n", f"    cloud_network:\n{CLOUD_V6 if cloud else ''}")), ()
    )


def test_with_ipv6_what_is_routed_is_the_same_in_both_families() -> None:
    ends = "icmpv6 type { nd-router-advert, nd-redirect } counter drop"
    assert rules("routed", dual()) == [
        f'iifname "virbr100" oifname "virbr100" {ends}',
        'iifname "virbr100" oifname "virbr100" accept',
        f'iifname "virbr200" oifname "virbr200" {ends}',
        'iifname "virbr200" oifname "virbr200" accept',
        "jump spoofed",
        "ct state established,related accept",
        'iifname "virbr100" oifname "virbr200" ip saddr { 192.168.100.11, 192.168.100.12 }'
        " ip daddr { 192.168.200.10 } tcp dport { 440-445, 6443 } accept",
        'iifname "virbr100" oifname "virbr200" ip6 saddr { fd00:100::b, fd00:100::c }'
        " ip6 daddr { fd00:200::a } tcp dport { 440-445, 6443 } accept",
        'iifname "virbr100" oifname "virbr200" ip daddr 192.168.200.0/24 icmp type echo-request accept',
        'iifname "virbr100" oifname "virbr200" ip6 daddr fd00:200::/64 icmpv6 type echo-request accept',
        'iifname "virbr200" oifname "virbr100" ip daddr { 192.168.100.10 } udp dport { 53 } accept',
        'iifname "virbr200" oifname "virbr100" ip6 daddr { fd00:100::a } udp dport { 53 } accept',
        *out(ipv6=True),
        "counter reject with icmpx admin-prohibited",
    ]


def test_with_ipv6_guests_may_find_the_host_and_ask_its_dns() -> None:
    assert rules("guest_to_host", dual()) == [
        "meta nfproto ipv4 udp sport 68 udp dport 67 accept",
        "jump spoofed",
        "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
        "ct state established,related accept",
        *(
            f'iifname "virbr{number}" {gateway} {protocol} dport 53 accept'
            for number in (100, 200)
            for gateway in (f"ip daddr 192.168.{number}.1", f"ip6 daddr fd00:{number}::1")
            for protocol in ("udp", "tcp")
        ),
        "counter reject with icmpx admin-prohibited",
    ]


def test_where_one_network_alone_has_ipv6_none_passes_from_or_to_the_other() -> None:
    firewall = dual(cloud=False)
    routed = rules("routed", firewall)
    dropped = [f'{side} "virbr200" meta nfproto ipv6 counter drop' for side in ("iifname", "oifname")]
    assert routed[3:6] == [*dropped, "jump spoofed"]
    between = [rule for rule in routed if 'oifname "' in rule]
    assert not any("ip6 daddr" in rule for rule in between)
    assert not any("ip6 daddr" in rule and rule.endswith("accept") for rule in routed)
    assert rules("guest_to_host", firewall)[0] == dropped[0]
    assert [rule for rule in rules("spoofed", firewall) if "ip6" in rule] == rules("spoofed", firewall)[1:2]


def test_with_ipv6_a_node_has_its_own_and_its_link_local_address() -> None:
    firewall = dual()
    node = firewall.zones[0].nodes[0]
    known = rules("spoofed", firewall)[1]
    link_local = ids.link_local_address(node.mac)
    assert known.startswith(
        f'iifname "virbr100" ether saddr . ip6 saddr != {{ {node.mac} . fd00:100::a, {node.mac} . {link_local}, '
    )
    assert known.count("fd00:100::") == known.count("fe80::5054:ff:fe") == 3


def test_with_ipv6_both_families_go_out_where_there_is_a_way() -> None:
    bridges = '{ "virbr100", "virbr200" }'
    assert rules("postrouting", dual()) == [
        f"ip saddr 192.168.100.0/24 ip saddr != 192.168.100.1 oifname != {bridges} masquerade",
        f"ip6 saddr fd00:100::/64 ip6 saddr != fd00:100::1 oifname != {bridges} masquerade",
    ]


def test_a_link_local_address_is_made_of_the_mac_address() -> None:
    # The example of RFC 4291, appendix A, with the universal bit as there.
    assert str(ids.link_local_address("34:56:78:9a:bc:de")) == "fe80::3656:78ff:fe9a:bcde"
    assert str(ids.link_local_address("52:54:00:00:00:01")) == "fe80::5054:ff:fe00:1"


def test_each_rule_of_the_file_is_there_once_and_named() -> None:
    assert [rule.name for rule in build_firewall(spec_of(), ()).rules] == [
        "hpc-compute-1,hpc-compute-2 to cloud-control-plane: tcp 440-445 6443",
        "hpc to cloud: icmp",
        "cloud to hpc-controller: udp 53",
    ]


def test_a_network_knows_the_nodes_of_the_other_by_their_proper_name_first() -> None:
    (alias, _worker) = aliases_for(spec_of(), ClusterKind.HPC)
    assert (alias.name, alias.ip) == ("cloud-control-plane", "192.168.200.10")
    assert alias.names == ("cloud-control-plane.cloud.demo.internal", "cloud-control-plane")
    assert alias.ip_v6 == ""
    (alias, _worker) = aliases_for(
        spec_of(TEXT.replace("    cloud_network:\n", f"    cloud_network:\n{CLOUD_V6}")), ClusterKind.HPC
    )
    assert (alias.ip, alias.ip_v6) == ("192.168.200.10", "fd00:200::a")


def test_the_text_replaces_a_table_in_one_go_and_quotes_nothing_foreign() -> None:
    text = replacement(filter_table(OWNER, build_firewall(spec_of(), ())))
    lines = text.splitlines()
    assert lines[:2] == ["table inet hyperscaler_demo", "delete table inet hyperscaler_demo"]
    assert lines[2:4] == ["table inet hyperscaler_demo {", "\tchain owner {"]
    assert text.count("{") == text.count("}")
    assert all(line.count('"') % 2 == 0 for line in text.splitlines())


def test_a_table_with_two_marks_or_a_strange_one_is_nobody_s() -> None:
    def listing(*comments: str) -> str:
        rows = ", ".join(
            f'{{"rule": {{"chain": "owner", "handle": {index}, "comment": "{comment}", "expr": []}}}}'
            for index, comment in enumerate(comments)
        )
        return f'{{"nftables": [{{"metainfo": {{}}}}, {{"table": {{"name": "t"}}}}, {rows}]}}'

    mark = "hyperscaler lab=demo resource=firewall/lab digest=ab"
    owner = read_table("t", listing(mark)).owner
    assert owner is not None and (owner.lab, owner.resource_id, owner.digest) == ("demo", "firewall/lab", "ab")
    for comments in ((mark, mark), (f"{mark} more",), ("hyperscaler lab= resource=x digest=",)):
        assert read_table("t", listing(*comments)).owner is None


def test_the_firewall_outlives_what_departs_and_comes_before_what_arrives() -> None:
    """A cluster that leaves the file is confined by the old table until its last guest has gone."""
    firewall = Firewall(name="lab", table="t", zones=(), rules=())
    gone, new = (network(name, firewall) for name in ("cloud", "hpc"))
    guest = Domain(
        name="n",
        needs=(gone.id,),
        uuid="",
        node="n",
        vcpus=1,
        memory_mib=1,
        mac="",
        ip="",
        network=gone.id,
        volume="",
        console_log="",
        accelerated=False,
    )
    plan = Plan(
        "demo",
        (
            Change(Action.DELETE, guest, ""),
            Change(Action.DELETE, gone, ""),
            Change(Action.UPDATE, firewall, ""),
            Change(Action.CREATE, new, ""),
        ),
    )
    _, waits = steps_of(plan)
    assert waits == {
        "delete domain/n": set(),
        "delete network/cloud": {"delete domain/n"},
        "ensure firewall/lab": {"delete network/cloud"},
        "ensure network/hpc": {"ensure firewall/lab"},
    }
    _, waits = steps_of(Plan("demo", (Change(Action.DELETE, gone, ""), Change(Action.DELETE, firewall, ""))))
    assert waits["delete firewall/lab"] == {"delete network/cloud"}


def network(name: str, firewall: Firewall) -> Network:
    return Network(
        name=name,
        needs=(firewall.id,),
        uuid="",
        bridge="",
        subnet="",
        gateway="",
        dns_domain="",
        hosts=(),
        nat=False,
    )
