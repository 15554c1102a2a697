"""Firewalls of the host that stop guests on its bridges, and the remedies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from emulator.core.data_files import share_dir
from emulator.host.checks.firewalls import DEFAULT_BRIDGES, check_firewalls
from emulator.host.checks.result import HostCheckResult, Level, Wanted
from emulator.host.parsers import parse_forward_drops
from emulator.host.readings import ForwardChain
from emulator.operations.host.check import check_host
from tests.support import host_trees

# What nft 1.0.6 prints.
CHAINS = """\
table inet filter {
\tchain input {
\t\ttype filter hook input priority filter; policy drop;
\t}
\tchain forward {
\t\ttype filter hook forward priority filter; policy drop;
\t}
\tchain other {
\t}
}
table ip6 x {
\tchain forward {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
table ip filter {
\tchain FORWARD {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
table inet firewalld {
\tchain filter_FORWARD {
\t\ttype filter hook forward priority filter + 10; policy drop;
\t}
}
"""
LAB = """\
version: "1.0"
metadata: {name: small}
global: {networks: {hpc_network: {subnet: 192.168.77.0/24, bridge: labbr0}}}
clusters: {hpc: {controller: {memory_gb: 4}, compute_nodes: {count: 1, memory_gb: 4, gpu_enabled: false}}}
hypervisor: {uri: "qemu:///system"}
"""
SYSTEM = Wanted(lab="l", embedded=False, bridges=("labbr0",))
DOCKER = {1: "systemd", 612: "chronyd", 900: "dockerd"}


def judge(root: Path, wanted: Wanted = SYSTEM, **changes: Any) -> dict[str, HostCheckResult]:
    changes = {"modules": ["kvm_intel", "nf_tables"], "programs": {"nft-chains": ""}, **changes}
    host = host_trees.read(host_trees.plant(root, "intel", **changes))
    return {result.id: result for result in check_firewalls(host, wanted)}


def test_the_default_bridges_are_those_of_the_schema() -> None:
    schema = (share_dir() / "schemas" / "cluster.schema.json").read_text()
    networks = json.loads(schema)["properties"]["global"]["properties"]["networks"]["properties"]
    assert tuple(network["properties"]["bridge"]["default"] for network in networks.values()) == DEFAULT_BRIDGES


def test_what_is_opened_for_docker_are_the_lab_s_bridges_alone(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "programs": {"iptables-forward": "-P FORWARD DROP\n", "nft-chains": ""},
        "processes": DOCKER,
    }
    result = judge(tmp_path / "a", **changes)["network.docker"]
    assert (result.level, result.found) == (Level.WARN, "FORWARD is DROP")
    assert result.fix == (
        "iptables -I DOCKER-USER -i labbr0 -j ACCEPT; iptables -I DOCKER-USER -o labbr0 -j ACCEPT; "
        "or hypervisor.uri: embedded"
    )
    any_lab = judge(tmp_path / "b", Wanted(embedded=False), **changes)["network.docker"]
    assert all(f"-o {name} -j" in any_lab.fix for name in DEFAULT_BRIDGES) and "+" not in any_lab.fix


def test_the_bridges_are_taken_from_the_lab_file(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(LAB)
    programs = {"iptables-forward": "-P FORWARD DROP\n"}
    root = host_trees.plant(tmp_path / "root", "intel", programs=programs, processes=DOCKER)
    report = check_host(lambda: host_trees.read(root), tmp_path / "lab.yaml", None)
    (fix,) = (result.fix for result in report.results if result.id == "network.docker")
    assert "-i labbr0 -j ACCEPT" in fix


def test_forward_chains_that_drop() -> None:
    assert parse_forward_drops(CHAINS) == (
        ForwardChain("inet", "filter", "forward"),
        ForwardChain("ip", "filter", "FORWARD"),
        ForwardChain("inet", "firewalld", "filter_FORWARD"),
    )
    assert parse_forward_drops("") == ()


def test_a_policy_that_drops_without_docker(tmp_path: Path) -> None:
    result = judge(tmp_path, programs={"nft-chains": CHAINS})["network.forward"]
    assert result.level is Level.WARN
    assert result.found == "dropped by the policy of: inet filter forward, ip filter FORWARD"
    assert result.fix == (
        "nft insert rule inet filter forward iifname labbr0 accept; "
        "nft insert rule inet filter forward oifname labbr0 accept; "
        "iptables -I FORWARD -i labbr0 -j ACCEPT; iptables -I FORWARD -o labbr0 -j ACCEPT; or hypervisor.uri: embedded"
    )


def test_an_old_iptables_without_docker(tmp_path: Path) -> None:
    programs = {"iptables-forward": "-P FORWARD DROP\n"}
    result = judge(tmp_path / "a", modules=["iptable_filter"], programs=programs)["network.forward"]
    assert (result.level, result.found) == (Level.WARN, "dropped by the policy of: ip filter FORWARD")
    quiet = judge(tmp_path / "b", modules=["kvm_intel"], programs=programs)["network.forward"]
    assert (quiet.level, quiet.found) == (Level.PASS, "no chain drops them by its policy")


def test_what_docker_and_ufw_drop_is_reported_once(tmp_path: Path) -> None:
    firewalls: tuple[dict[str, Any], ...] = ({"processes": DOCKER}, {"files": {"/etc/ufw/ufw.conf": "ENABLED=yes\n"}})
    for number, changes in enumerate(firewalls):
        programs = {"nft-chains": CHAINS, "iptables-forward": "-P FORWARD DROP\n"}
        result = judge(tmp_path / str(number), programs=programs, **changes)["network.forward"]
        assert result.found == "dropped by the policy of: inet filter forward"


def test_an_ordinary_user_does_not_see_the_packet_filter(tmp_path: Path) -> None:
    result = judge(tmp_path, programs={}, uid=1000, groups=["kvm"])["network.forward"]
    assert (result.level, result.unseen, result.fix) == (Level.WARN, True, "sudo nft list chains")
    assert result.found == "the packet filter is hidden from this user"


@pytest.mark.parametrize(
    ("text", "level"),
    [
        (None, Level.PASS),
        ("# /etc/ufw/ufw.conf\n\n# Set to yes to start on boot.\nENABLED=no\nLOGLEVEL=low\n", Level.PASS),
        ("# /etc/ufw/ufw.conf\n\n# Set to yes to start on boot.\nENABLED=yes\nLOGLEVEL=low\n", Level.WARN),
    ],
)
def test_ufw_is_seen(tmp_path: Path, text: str | None, level: Level) -> None:
    files = {} if text is None else {"/etc/ufw/ufw.conf": text}
    result = judge(tmp_path, files=files)["network.ufw"]
    assert result.level is level
    if level is Level.WARN:
        assert result.fix == (
            "ufw allow in on labbr0 to any port 67 proto udp; ufw allow in on labbr0 to any port 53; "
            "ufw route allow in on labbr0; ufw route allow out on labbr0; or hypervisor.uri: embedded"
        )


def test_firewalld_gets_the_bridges(tmp_path: Path) -> None:
    result = judge(tmp_path, processes={1: "systemd", 300: "firewalld"})["network.firewalld"]
    assert "--zone=libvirt --add-interface=labbr0;" in result.fix


def test_a_lab_with_networks_of_its_own_passes_no_firewall_of_the_host(tmp_path: Path) -> None:
    wanted = Wanted(lab="l", embedded=True, bridges=("labbr0",))
    files = {"/etc/ufw/ufw.conf": "ENABLED=yes\n"}
    results = judge(tmp_path, wanted, programs={"nft-chains": CHAINS}, files=files, processes=DOCKER)
    assert {result.level for result in results.values()} == {Level.PASS}
