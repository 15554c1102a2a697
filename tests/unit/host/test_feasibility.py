"""Whether a host can hold a lab, from tables."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network

import pytest

from emulator.host.facts import HostFacts
from emulator.host.feasibility import check_host
from emulator.host.routes import HostNetwork
from emulator.labfile.findings import Report
from emulator.labfile.load import parse_spec
from emulator.labfile.model import ClusterSpec

LAB = """version: "1.0"
metadata: {name: x}
global:
  networks:
    hpc_network: {subnet: 10.5.0.0/24, bridge: br5}
clusters:
  hpc:
    controller: {cpu_cores: 2, memory_gb: 2, disk_gb: 10}
    compute_nodes: {count: 2, cpu_cores: 1, memory_gb: 1, disk_gb: 10}
"""

ROOMY = HostFacts(cores=8, memory_total_mib=32768, memory_available_mib=30000, disk_free_gib=500.0)


def lab() -> tuple[ClusterSpec, Report]:
    spec, report = parse_spec(LAB, file="lab.yaml")
    assert spec is not None
    return spec, report


def judged(
    host: HostFacts, *, private: bool = False, bridges: tuple[str, ...] = (), existing: tuple[str, ...] = ()
) -> list[str]:
    spec, report = lab()
    found = check_host(spec, host, report=report, private_network=private, own_bridges=bridges, existing=existing)
    return [each.render().replace("\n    fix: ", " | ") for each in found]


def test_a_roomy_host_has_nothing_to_say() -> None:
    assert judged(ROOMY) == []


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (
            replace(ROOMY, memory_total_mib=4096),
            "lab.yaml:6:1: error: clusters: 3 nodes with 128 MiB for QEMU each take 4.4 GiB of memory, and this"
            " host has 4.0 GiB in all"
            " | lower memory_gb or the number of nodes; the largest is hpc-controller with 2.0 GiB",
        ),
        (
            replace(ROOMY, memory_reserved_mib=30 * 1024),
            "lab.yaml:6:1: error: clusters: 3 nodes with 128 MiB for QEMU each take 4.4 GiB of memory, and this"
            " host has 32.0 GiB in all, 30.0 GiB of it reserved as huge pages, which labs do not use"
            " | sysctl vm.nr_hugepages=0 if nothing else needs them; or lower memory_gb or the number of nodes;"
            " the largest is hpc-controller with 2.0 GiB",
        ),
        (
            replace(ROOMY, memory_available_mib=4096),
            "lab.yaml:6:1: warning: clusters: 4.4 GiB of memory for 3 nodes to start, and 4.0 GiB is free now"
            " | end other programs, or lower memory_gb",
        ),
        (
            replace(ROOMY, disk_free_gib=20.0),
            "lab.yaml:6:1: warning: clusters: 30 GiB of disk for 3 nodes, and 20.0 GiB is free; disks are"
            " thin and grow as they are written, so the lab starts, and guests whose disks grow are paused once only"
            " the reserve of 2 GiB is left"
            " | lower disk_gb, or set HYPERSCALER_HOME to a larger disk",
        ),
        (
            replace(ROOMY, disk_free_gib=7.5),
            "lab.yaml:6:1: error: clusters: at least 6 GiB of disk for 3 nodes would leave less than"
            " the reserve of 2 GiB, and 7.5 GiB is free | free some space (`hyperscaler image gc`), set"
            " HYPERSCALER_HOME to a larger disk, or lower hypervisor.disk_reserve_gb",
        ),
        (
            replace(ROOMY, disk_free_gib=5.5),
            "lab.yaml:6:1: error: clusters: at least 6 GiB of disk for 3 nodes (2 GiB each), and 5.5 GiB is free"
            " | free some space (`hyperscaler image gc`), or set HYPERSCALER_HOME to a larger disk",
        ),
    ],
)
def test_memory_and_disk(host: HostFacts, expected: str) -> None:
    assert judged(host) == [expected]


def test_cores_beyond_the_limit_are_a_warning() -> None:
    spec, report = lab()
    spec = replace(spec, hypervisor=replace(spec.hypervisor, cpu_overcommit=1.5))
    (found,) = check_host(spec, replace(ROOMY, cores=2), report=report, private_network=True)
    assert found.render() == (
        "lab.yaml:6:1: warning: clusters: the nodes have 4 cores in all, this host 2: 2.0 for each, and the limit"
        " is 1.5\n    fix: lower cpu_cores, or raise hypervisor.cpu_overcommit if slow nodes are fine"
    )
    assert judged(replace(ROOMY, cores=1)) == []  # exactly at the default limit of 4


def test_nodes_that_run_already_are_not_counted_again() -> None:
    nodes = ("hpc-controller", "hpc-compute-1", "hpc-compute-2")
    assert judged(replace(ROOMY, memory_available_mib=100, disk_free_gib=0.5), existing=nodes) == []
    (found,) = judged(replace(ROOMY, memory_available_mib=100), existing=nodes[:2])
    assert "1.1 GiB of memory for 1 node to start" in found


NETWORKED = replace(
    ROOMY, networks=(HostNetwork("eth0", IPv4Network("10.5.0.0/16")),), interfaces=("br5", "eth0", "lo")
)


def test_taken_networks_and_bridges() -> None:
    assert judged(NETWORKED) == [
        "lab.yaml:5:27: error: global.networks.hpc_network.subnet: 10.5.0.0/24 overlaps 10.5.0.0/16, which this host"
        " reaches through eth0"
        " | choose another subnet such as 192.168.101.0/24, or `hypervisor: {uri: embedded}` with networks of its own",
        "lab.yaml:5:48: error: global.networks.hpc_network.bridge: this host already has an interface br5"
        " | choose another name, or `hypervisor: {uri: embedded}` with bridges of its own",
    ]


def test_the_example_is_free_in_the_lab_and_on_the_host() -> None:
    text = LAB.replace("clusters:", "    cloud_network: {subnet: 192.168.101.0/24}\nclusters:\n  cloud: {}")
    spec, report = parse_spec(text, file="lab.yaml")
    assert spec is not None
    lan = HostNetwork("eth1", IPv4Network("192.168.102.0/24"))
    host = replace(NETWORKED, interfaces=(), networks=(*NETWORKED.networks, lan))
    (found,) = check_host(spec, host, report=report, private_network=False)
    assert found.fix.startswith("choose another subnet such as 192.168.103.0/24, or ")


@pytest.mark.parametrize(
    ("nat", "private", "warned"), [("true", False, True), ("false", False, False), ("true", True, True)]
)
def test_networks_of_the_host_inside_those_of_pods_and_services(nat: str, private: bool, warned: bool) -> None:
    text = f"""version: "1.0"
metadata: {{name: x}}
global: {{networks: {{cloud_network: {{subnet: 10.78.0.0/24, nat: {nat}}}}}}}
clusters: {{cloud: {{}}}}
"""
    spec, report = parse_spec(text, file="lab.yaml")
    assert spec is not None
    networks = (HostNetwork("eth0", IPv4Network("10.244.3.0/24")), HostNetwork("tun0", IPv4Network("10.96.0.0/24")))
    found = check_host(spec, replace(ROOMY, networks=networks), report=report, private_network=private)
    expected = [
        "lab.yaml:4:12: warning: clusters.cloud.kubernetes_config.pod_subnet: 10.244.3.0/24 (eth0) of this host lies in"
        " pod_subnet 10.244.0.0/16: pods do not reach it through NAT"
        "\n    fix: choose another pod_subnet such as 10.0.0.0/16, or leave it if no pod is to reach that network",
        "lab.yaml:4:12: warning: clusters.cloud.kubernetes_config.service_subnet: 10.96.0.0/24 (tun0) of this host lies"
        " in service_subnet 10.96.0.0/12: pods do not reach it through NAT"
        "\n    fix: choose another service_subnet such as 10.0.0.0/12, or leave it if no pod is to reach that network",
    ]
    assert [each.render() for each in found] == (expected if warned else [])


def test_a_taken_ipv6_network() -> None:
    spec, report = parse_spec(LAB.replace("subnet: 10.5.0.0/24", "subnet_v6: fd00:5::/64"), file="lab.yaml")
    assert spec is not None
    host = replace(ROOMY, networks=(HostNetwork("wg0", IPv6Network("fd00::/24")),))
    (found,) = check_host(spec, host, report=report, private_network=False)
    assert found.render().replace("\n    fix: ", " | ") == (
        "lab.yaml:5:30: error: global.networks.hpc_network.subnet_v6: fd00:5::/64 overlaps fd00::/24, which this host"
        " reaches through wg0 | choose another subnet such as fd12:3456:789a:101::/64,"
        " or `hypervisor: {uri: embedded}` with networks of its own"
    )
    for fine in (HostNetwork("br5", IPv6Network("fd00:5::/64")), HostNetwork("wg0", IPv6Network("fd00:6::/64"))):
        host = replace(ROOMY, networks=(fine,))
        assert check_host(spec, host, report=report, private_network=False, own_bridges=("br5",)) == []


def test_a_private_network_namespace_does_not_care() -> None:
    assert judged(NETWORKED, private=True) == []


def test_the_lab_s_own_bridge_is_not_in_its_way() -> None:
    host = replace(ROOMY, networks=(HostNetwork("br5", IPv4Network("10.5.0.0/24")),), interfaces=("br5", "lo"))
    assert judged(host, bridges=("br5",)) == []
    assert len(judged(host)) == 2
