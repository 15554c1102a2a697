"""The role that both playbooks share: what it makes of an inventory."""

from __future__ import annotations

import pytest
import yaml
from baseline_templates import LAB, PLAYBOOKS, rendered

from emulator.share import share_dir


def rules(host: str) -> list[str]:
    return [line.strip() for line in rendered("firewall.nft.j2", host).splitlines() if "accept" in line]


ALWAYS = [
    "ct state established,related accept",
    'iifname "lo" accept',
    "meta l4proto { icmp, icmpv6 } accept",
    'udp sport 67 udp dport 68 accept comment "an answer of the lab\'s DHCP server"',
    "tcp dport 22 accept",
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
    assert rules(host) == [*ALWAYS, *expected]
    text = rendered("firewall.nft.j2", host)
    assert "policy drop" in text
    own = "192.168.100.10, 192.168.100.11, 192.168.100.12" if host.startswith("hpc") else "192.168.200.10"
    assert f"elements = {{ {own}" in text


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
