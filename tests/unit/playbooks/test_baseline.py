"""The role that both playbooks share: what it makes of an inventory."""

from __future__ import annotations

import re

import pytest
import yaml

from emulator.core.data_files import share_dir
from tests.support.baseline_templates import LAB, PLAYBOOKS, rendered


def inbound(host: str, text: str = LAB) -> list[str]:
    lines = [line.strip() for line in rendered("firewall.nft.j2", host, text).splitlines()]
    return lines[lines.index("chain input {") : lines.index("chain output {")]


def rules(host: str) -> list[str]:
    return [line for line in inbound(host) if "accept" in line]


ALWAYS = [
    "ct state established,related accept",
    'iifname "e*" ip saddr GATEWAY tcp dport 22 accept',
    "tcp dport 22 accept",
    'iifname "lo" accept',
    "meta l4proto { icmp, icmpv6 } accept",
    'udp sport 67 udp dport 68 accept comment "an answer of the lab\'s DHCP server"',
]
PODS = "ip saddr 10.244.0.0/16 tcp dport { 6443, 10250 } accept"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("hpc-controller", ["ip saddr @nodes meta l4proto { tcp, udp } th dport 1024-65535 accept"]),
        ("hpc-compute-1", ["ip saddr @nodes meta l4proto { tcp, udp } th dport 1024-65535 accept"]),
        ("cloud-cpu-worker-1", ["ip saddr @nodes accept", "ct status dnat accept", PODS]),
        ("cloud-control-plane", ["ip saddr @nodes accept", "ct status dnat accept", PODS, "tcp dport 6443 accept"]),
    ],
)
def test_a_node_lets_in_what_its_role_needs(host: str, expected: list[str]) -> None:
    gateway = "192.168.100.1" if host.startswith("hpc") else "192.168.200.1"
    assert rules(host) == [line.replace("GATEWAY", gateway) for line in (*ALWAYS, *expected)]
    text = rendered("firewall.nft.j2", host)
    assert "policy drop" in text
    own = "192.168.100.10, 192.168.100.11, 192.168.100.12" if host.startswith("hpc") else "192.168.200.10"
    assert f"elements = {{ {own}" in text


@pytest.mark.parametrize("host", ["hpc-controller", "cloud-control-plane"])
def test_nobody_on_a_node_fills_up_the_host_s_way_in(host: str) -> None:
    """Neither from loopback addresses nor from pods nor from other nodes: their connections are counted together."""
    lines = inbound(host)
    limit = lines.index("tcp dport 22 ct count over 32 drop")
    before = [line for line in lines[:limit] if "accept" in line]
    assert [line.split()[:2] for line in before] == [["ct", "state"], ["iifname", '"e*"']]
    assert lines[limit + 1] == "tcp dport 22 accept"
    assert not any("dport 22" in line for line in lines[limit + 2 :])
    source = 'iifname != "lo" ip saddr @nodes tcp dport 22 add @ssh_by_source { ip saddr ct count over 24 } drop'
    assert lines[limit - 1] == source
    pods = [line for line in lines[:limit] if line.endswith("tcp dport 22 ct count over 8 drop")]
    assert len(pods) == (host == "cloud-control-plane")
    sshd = (share_dir() / "config/images/files/common/etc/ssh/sshd_config.d/lab.conf").read_text()
    assert "MaxStartups 64:30:128" in sshd


@pytest.mark.parametrize("host", ["hpc-login-1", "hpc-controller", "hpc-compute-1", "cloud-control-plane"])
@pytest.mark.parametrize("families", [1, 2])
def test_one_user_of_a_node_has_few_ssh_connections(host: str, families: int) -> None:
    """To each node of the cluster, and to the node itself by all of its addresses together."""
    text = LAB.replace("hpc: {", "hpc: {login_nodes: {count: 1}, ") + (DUAL if families == 2 else "")
    lines = [line.strip() for line in rendered("firewall.nft.j2", host, text).splitlines()]
    chain = lines[lines.index("chain output {") + 1 :]
    assert chain[:2] == ["type filter hook output priority filter; policy accept;", "meta skuid < 2000 accept"]
    rules = chain[2 : chain.index("}")]
    assert len(rules) == 1 + families
    for rule in rules:
        assert "tcp dport 22 ct state new add @ssh_by_user" in rule
        assert re.search(r"\{ meta skuid( \. ip6? daddr)? ct count over 4 \} reject with tcp reset$", rule)
    assert [rule.split()[:3] for rule in rules] == [
        ["oifname", '"lo"', "tcp"],
        ["ip", "daddr", "@nodes"],
        ["ip6", "daddr", "@nodes_v6"],
    ][: 1 + families]
    assert "set ssh_by_user {" in lines and "set ssh_by_user_to {" in lines
    assert ("set ssh_by_user_to_v6 {" in lines) is (families == 2)


ALLOWED = """
global:
  networks:
    hpc_network:
      allow:
        - {from: [hpc-compute-2, hpc-controller], to: [cloud-control-plane], ports: [5000, 8000-8100]}
        - {protocol: udp, ports: [514]}
        - {protocol: icmp}
"""
COMMENT = 'accept comment "allowed in the lab file, from the other cluster"'


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (
            "cloud-control-plane",
            [
                f"ip saddr {{ 192.168.100.10, 192.168.100.12 }} tcp dport {{ 5000, 8000-8100 }} {COMMENT}",
                f"ip saddr {{ 192.168.100.0/24 }} udp dport {{ 514 }} {COMMENT}",
            ],
        ),
        ("cloud-cpu-worker-1", [f"ip saddr {{ 192.168.100.0/24 }} udp dport {{ 514 }} {COMMENT}"]),
        ("hpc-compute-1", []),
    ],
)
def test_a_node_lets_in_from_the_other_cluster_what_the_file_allows(host: str, expected: list[str]) -> None:
    lines = [line.strip() for line in rendered("firewall.nft.j2", host, LAB + ALLOWED).splitlines()]
    assert [line for line in lines if COMMENT in line] == expected


DUAL = """
global:
  networks:
    hpc_network:
      subnet_v6: fd00:100::/64
      allow:
        - {from: [hpc-compute-2], to: [cloud-control-plane], ports: [5000]}
        - {protocol: udp, ports: [514]}
    cloud_network: {subnet_v6: fd00:200::/64}
"""


def test_with_ipv6_a_node_lets_in_the_same_in_both_families() -> None:
    routers = 'icmpv6 type { nd-router-advert, nd-redirect } drop comment "routes are the lab file\'s"'
    lines = [line.strip() for line in rendered("firewall.nft.j2", "cloud-control-plane", LAB + DUAL).splitlines()]
    assert lines.index(routers) + 1 == lines.index("meta l4proto { icmp, icmpv6 } accept")
    assert [line for line in inbound("cloud-control-plane", LAB + DUAL) if "ip6" in line] == [
        f'iifname "e*" ip6 saddr {{ fd00:100::c }} tcp dport {{ 5000 }} {COMMENT}',
        f'iifname "e*" ip6 saddr {{ fd00:100::/64 }} udp dport {{ 514 }} {COMMENT}',
        'iifname "e*" ip6 saddr @nodes_v6 accept',
    ]
    assert "elements = { fd00:200::a, fd00:200::b }" in lines
    compute = rendered("firewall.nft.j2", "hpc-compute-1", LAB + DUAL)
    assert "ip6 saddr @nodes_v6 meta l4proto { tcp, udp } th dport 1024-65535 accept" in compute
    for host in ("hpc-compute-1", "cloud-control-plane"):
        assert not {"nodes_v6", "ip6", routers} & set(
            re.split(r"[ @{\n]", rendered("firewall.nft.j2", host, LAB + ALLOWED))
        )


def test_a_node_of_a_network_without_ipv6_lets_none_in() -> None:
    one = DUAL.replace("cloud_network: {subnet_v6: fd00:200::/64}", "cloud_network: {}")
    assert "ip6" not in rendered("firewall.nft.j2", "cloud-control-plane", LAB + one)
    assert "fd00:100::b, fd00:100::c" in rendered("firewall.nft.j2", "hpc-compute-1", LAB + one)


def test_a_node_s_ipv6_address_and_route_are_set_and_no_advertisement_is_listened_to() -> None:
    text = rendered("ipv6.conf.j2", "hpc-compute-1", LAB + DUAL)
    assert text.splitlines()[2:] == [
        "[Network]",
        "LinkLocalAddressing=ipv6",
        "IPv6LinkLocalAddressGenerationMode=eui64",
        "IPv6AcceptRA=no",
        "Address=fd00:100::b/64",
        "Gateway=fd00:100::1",
    ]


def test_only_our_own_table_is_replaced() -> None:
    for text in (
        rendered("firewall.nft.j2", "hpc-controller"),
        (share_dir() / "config/images/files/common/etc/hyperscaler/firewall.nft").read_text(),
    ):
        code = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert code[:3] == ["table inet lab", "delete table inet lab", "table inet lab {"]
        assert "flush" not in " ".join(code)
        assert "forward" not in " ".join(code)


@pytest.mark.parametrize(
    ("setting", "digit"), [("", "0"), ("security: {unattended_upgrades: true, apt_sources: [deb http://m b c]}", "1")]
)
def test_upgrades_are_a_choice(setting: str, digit: str) -> None:
    text = rendered("upgrades.conf.j2", "hpc-controller", LAB + setting)
    assert f'APT::Periodic::Unattended-Upgrade "{digit}";' in text
    assert 'Automatic-Reboot "false";' in text


def test_both_playbooks_begin_with_the_baseline() -> None:
    for name in ("playbook-hpc.yml", "playbook-k8s.yml"):
        plays = yaml.safe_load((PLAYBOOKS / name).read_text())
        assert next(play for play in plays if "roles" in play)["roles"][0] == {"role": "baseline"}
