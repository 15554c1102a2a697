"""Networks and addresses."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

import pytest

from emulator.labfile.addresses import AddressRange, free_addresses, parse_range
from emulator.labfile.model import ClusterSpec

Judge = Callable[[str], list[str]]
Load = Callable[[str], ClusterSpec]

HEAD = 'version: "1.0"\nmetadata: {name: x}\n'
BOTH = HEAD + "clusters: {hpc: {}, cloud: {}}\n"


def hpc(networks: str = "", *, controller: str = "", compute: str = "") -> str:
    return (
        f"{HEAD}global: {{networks: {{hpc_network: {{{networks}}}}}}}\n"
        f"clusters:\n  hpc:\n    controller: {{{controller}}}\n    compute_nodes: {{{compute}}}\n"
    )


def nets(hpc_net: str, cloud_net: str) -> str:
    return f"{BOTH}global:\n  networks:\n    hpc_network: {{{hpc_net}}}\n    cloud_network: {{{cloud_net}}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            nets("subnet: 10.1.0.0/16", "subnet: 10.1.2.0/24"),
            [
                "7:29: error: global.networks.cloud_network.subnet: 10.1.2.0/24 overlaps 10.1.0.0/16 of hpc_network"
                " | choose another network, for example 192.168.200.0/24"
            ],
        ),
        (
            nets("subnet: 192.168.200.0/24", ""),
            [
                "6:27: error: global.networks.hpc_network.subnet: 192.168.200.0/24 overlaps 192.168.200.0/24"
                " of cloud_network | choose another network, for example 192.168.100.0/24"
            ],
        ),
        (
            nets("bridge: br0", "bridge: br0"),
            [
                "7:29: error: global.networks.cloud_network.bridge: br0 is the bridge of hpc_network too"
                " | give each network its own bridge"
            ],
        ),
        (
            hpc("subnet: 10.0.0.7/24"),
            [
                "3:43: error: global.networks.hpc_network.subnet: 10.0.0.7/24 is an address in a network, not a network"
                " | write 10.0.0.0/24"
            ],
        ),
        (
            hpc("subnet: 10.0.0.0/30"),
            [
                "3:43: error: global.networks.hpc_network.subnet: a network of the lab is between /16 and /29, not /30"
                " | for example 10.0.0.0/24"
            ],
        ),
        (
            hpc("subnet: 127.1.0.0/24"),
            [
                "3:43: error: global.networks.hpc_network.subnet: 127.1.0.0/24 cannot be used: 127.0.0.0/8 is the"
                " loopback network of every machine | for example 192.168.100.0/24"
            ],
        ),
        (
            hpc("subnet: 8.8.8.0/24"),
            [
                "3:43: warning: global.networks.hpc_network.subnet: 8.8.8.0/24 is not a private network; the real hosts"
                " of that network cannot be reached from the lab"
                " | take one inside 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"
            ],
        ),
        (
            hpc("subnet: 10.0.0.256/24"),
            [
                "3:43: error: global.networks.hpc_network.subnet: expected an IPv4 network such as 192.168.100.0/24,"
                " got '10.0.0.256/24' | for example 192.168.100.0/24"
            ],
        ),
        (
            hpc("subnet_v6: 192.168.7.0/24"),
            [
                "3:46: error: global.networks.hpc_network.subnet_v6: expected an IPv6 network such as"
                " fd12:3456:789a:100::/64, got '192.168.7.0/24' | for example fd12:3456:789a:100::/64"
            ],
        ),
        (
            hpc("subnet_v6: 'fd00::1::/64'"),
            [
                "3:46: error: global.networks.hpc_network.subnet_v6: fd00::1::/64 is no IPv6 network"
                " | for example fd12:3456:789a:100::/64"
            ],
        ),
        (
            hpc("subnet_v6: fd00:7::/129"),
            [
                "3:46: error: global.networks.hpc_network.subnet_v6: fd00:7::/129 is no IPv6 network"
                " | for example fd12:3456:789a:100::/64"
            ],
        ),
        (
            hpc("subnet_v6: 'fd00:7::1/64'"),
            [
                "3:46: error: global.networks.hpc_network.subnet_v6: fd00:7::1/64 is an address in a network, not a"
                " network | write fd00:7::/64"
            ],
        ),
        (
            hpc("subnet_v6: fd00:7:8::/48"),
            [
                "3:46: error: global.networks.hpc_network.subnet_v6: an IPv6 network of the lab is a /64, not a /48"
                " | for example fd00:7:8::/64"
            ],
        ),
        (
            hpc("subnet_v6: fe80::/64"),
            [
                "3:46: error: global.networks.hpc_network.subnet_v6: fe80::/64 cannot be used: fe80::/10 is for"
                " link-local addresses | for example fd12:3456:789a:100::/64"
            ],
        ),
        (
            hpc("subnet_v6: ff05::/64"),
            [
                "3:46: error: global.networks.hpc_network.subnet_v6: ff05::/64 cannot be used: ff00::/8 is for"
                " multicast | for example fd12:3456:789a:100::/64"
            ],
        ),
        (
            hpc("subnet_v6: '::/64'"),
            [
                "3:46: error: global.networks.hpc_network.subnet_v6: ::/64 cannot be used: ::/8 holds the loopback"
                " address, and IPv4 addresses in other forms | for example fd12:3456:789a:100::/64"
            ],
        ),
        (
            hpc("subnet_v6: 2a00:1450:4001:80b::/64"),
            [
                "3:46: warning: global.networks.hpc_network.subnet_v6: 2a00:1450:4001:80b::/64 is not a unique local"
                " network; the real hosts of that network cannot be reached from the lab"
                " | take one inside fd00::/8, with 40 random bits of your own behind fd"
            ],
        ),
        (
            nets("subnet_v6: fd12:3456:789a:100::/64", "subnet_v6: fd12:3456:789a:100:0::/64"),
            [
                "7:32: error: global.networks.cloud_network.subnet_v6: fd12:3456:789a:100::/64 overlaps"
                " fd12:3456:789a:100::/64 of hpc_network"
                " | choose another network, for example fd12:3456:789a:200::/64"
            ],
        ),
        (
            nets("subnet_v6: 'fd12:3456:789a::/48'", "subnet_v6: fd12:3456:789a:100::/64"),
            [
                "6:30: error: global.networks.hpc_network.subnet_v6: an IPv6 network of the lab is a /64, not a /48"
                " | for example fd12:3456:789a::/64",
                "7:32: error: global.networks.cloud_network.subnet_v6: fd12:3456:789a:100::/64 overlaps"
                " fd12:3456:789a::/48 of hpc_network | choose another network",
            ],
        ),
        (nets("subnet_v6: fd00:1::/64", "subnet_v6: fd00:2::/64"), []),
        (nets("subnet_v6: fd00:1::/64", ""), []),
        (
            hpc("bridge: virbr100-for-hpc"),
            [
                "3:43: error: global.networks.hpc_network.bridge: expected an interface name of at most 15 letters,"
                " digits, '_' and '-', got 'virbr100-for-hpc' | for example virbr100"
            ],
        ),
        (
            hpc("bridge: lo"),
            [
                "3:43: error: global.networks.hpc_network.bridge: 'lo' cannot be a bridge: it is the loopback interface"
                " of every network namespace | choose another name, for example virbr100"
            ],
        ),
        (
            nets("bridge: all", "bridge: all"),
            [
                f"{place}: 'all' cannot be a bridge: the kernel has its settings for all interfaces under that name"
                f" (net.ipv4.conf.all) | choose another name, for example {free}"
                for place, free in (
                    ("6:27: error: global.networks.hpc_network.bridge", "virbr100"),
                    ("7:29: error: global.networks.cloud_network.bridge", "virbr200"),
                )
            ],
        ),
        (
            hpc(controller="ip_address: 10.9.9.9"),
            [
                "6:30: error: clusters.hpc.controller.ip_address: 10.9.9.9 is outside the subnet 192.168.100.0/24 of"
                " hpc_network | use addresses from 192.168.100.2 to 192.168.100.254"
            ],
        ),
        (
            hpc(controller="ip_address: 192.168.100.1"),
            [
                "6:30: error: clusters.hpc.controller.ip_address: 192.168.100.1 is the gateway's address (the host's"
                " bridge) in 192.168.100.0/24 | use addresses from 192.168.100.2 to 192.168.100.254"
            ],
        ),
        (
            hpc(compute="ip_range: 192.168.100.254-255"),
            [
                "7:31: error: clusters.hpc.compute_nodes.ip_range: 192.168.100.255 is the broadcast address in"
                " 192.168.100.0/24 | use addresses from 192.168.100.2 to 192.168.100.254"
            ],
        ),
        (
            hpc(compute="count: 5, ip_range: 192.168.100.11-14"),
            [
                "7:41: error: clusters.hpc.compute_nodes.ip_range: 192.168.100.11-14 is 4 addresses, but count is 5"
                " | write 192.168.100.11-15, or lower count to 4"
            ],
        ),
        (
            hpc(compute="count: 2, ip_range: 192.168.100.11"),
            [
                "7:41: error: clusters.hpc.compute_nodes.ip_range: 192.168.100.11 is 1 address, but count is 2"
                " | write 192.168.100.11-12, or lower count to 1"
            ],
        ),
        (
            hpc(compute="ip_range: 192.168.100.20-11"),
            [
                "7:31: error: clusters.hpc.compute_nodes.ip_range: the range ends (192.168.100.11) before it begins"
                " (192.168.100.20) | write the lower address first, each number at most 255"
            ],
        ),
        (
            hpc(controller="ip_address: 192.168.100.12", compute="count: 2, ip_range: 192.168.100.11-14"),
            [
                "7:41: error: clusters.hpc.compute_nodes.ip_range: 192.168.100.12 is also given by"
                " clusters.hpc.controller.ip_address | begin after 192.168.100.12"
            ],
        ),
        (
            hpc("subnet: 10.0.0.0/28", compute="count: 20"),
            [
                "7:5: error: clusters.hpc.compute_nodes: 10.0.0.0/28 of hpc_network has room for 12 of the 20 nodes"
                " | choose a larger subnet (a smaller number after the slash), or fewer nodes"
            ],
        ),
        (hpc(controller="ip_address: 192.168.100.14", compute="count: 2, ip_range: 192.168.100.11-14"), []),
    ],
)
def test_wording_and_place(faults: Judge, text: str, expected: list[str]) -> None:
    assert faults(text) == expected


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("192.168.100.11-14", "192.168.100.11", "192.168.100.14"),
        ("192.168.100.11", "192.168.100.11", "192.168.100.11"),
        ("10.0.0.250-10.0.1.9", "10.0.0.250", "10.0.1.9"),
    ],
)
def test_forms_of_a_range(text: str, first: str, last: str) -> None:
    assert parse_range(text) == AddressRange(IPv4Address(first), IPv4Address(last))
    assert str(parse_range(text)) == text


def test_a_huge_range_costs_nothing(faults: Judge) -> None:
    (found,) = faults(hpc(compute="ip_range: 1.0.0.0-223.255.255.255"))
    assert "1.0.0.0 is outside the subnet" in found


def test_free_addresses_skip_what_is_taken_and_wrap() -> None:
    subnet = IPv4Network("10.0.0.0/29")  # .1 is the gateway, .2 to .6 are for nodes
    taken = [AddressRange(IPv4Address("10.0.0.5"), IPv4Address("10.0.0.5"))]
    found = free_addresses(subnet, start=IPv4Address("10.0.0.4"), count=9, taken=taken)
    assert [str(each) for each in found] == ["10.0.0.4", "10.0.0.6", "10.0.0.2", "10.0.0.3"]


def test_a_node_has_the_same_place_in_both_families(spec_of: Load) -> None:
    spec = spec_of(nets("subnet: 10.5.0.0/16, subnet_v6: fd00:5::/64", "subnet_v6: FD00:0006:0::/64"))
    hpc_network, cloud = spec.networks.values()
    assert (str(hpc_network.gateway_v6), str(cloud.subnet_v6)) == ("fd00:5::1", "fd00:6::/64")
    assert str(hpc_network.address_v6(IPv4Address("10.5.1.2"))) == "fd00:5::102"
    assert str(cloud.address_v6(spec.nodes_of(cloud.cluster)[0].ip)) == "fd00:6::a"
    (plain,) = spec_of(hpc()).networks.values()
    assert (plain.subnet_v6, plain.gateway_v6, plain.address_v6(plain.gateway)) == (None, None, None)


@pytest.mark.parametrize(
    "name",
    ["lo", "all", "default", "bonding_masters", ".", "..", "a/b", "a b", "a:b", "br%d", "abcdefghijklmnop"],
)
def test_names_that_the_kernel_refuses_or_owns(faults: Judge, name: str) -> None:
    (fault,) = faults(hpc(f"bridge: '{name}'"))
    assert fault.startswith("3:43: error: global.networks.hpc_network.bridge: ")


@pytest.mark.parametrize("name", ["lo0", "All", "default-net", "virbr100", "0", "br_1"])
def test_names_that_only_look_like_them(faults: Judge, name: str) -> None:
    assert faults(hpc(f"bridge: '{name}'")) == []


def addresses(spec: ClusterSpec) -> dict[str, str]:
    return {node.name: str(node.ip) for node in spec.nodes}


def test_default_addresses(spec_of: Load) -> None:
    text = (
        HEAD
        + """
clusters:
  hpc: {compute_nodes: {count: 2}, login_nodes: {}}
  cloud: {worker_nodes: {cpu_workers: {count: 2}, gpu_workers: {count: 1, gpu_enabled: false}}}
"""
    )
    assert addresses(spec_of(text)) == {
        "hpc-controller": "192.168.100.10",
        "hpc-compute-1": "192.168.100.11",
        "hpc-compute-2": "192.168.100.12",
        "hpc-login-1": "192.168.100.129",
        "cloud-control-plane": "192.168.200.10",
        "cloud-cpu-worker-1": "192.168.200.11",
        "cloud-cpu-worker-2": "192.168.200.12",
        "cloud-gpu-worker-1": "192.168.200.129",
    }


def test_default_addresses_avoid_given_ones(spec_of: Load) -> None:
    text = hpc(controller="ip_address: 192.168.100.12", compute="count: 3")
    assert list(addresses(spec_of(text)).values()) == [
        "192.168.100.12",
        "192.168.100.11",
        "192.168.100.13",
        "192.168.100.14",
    ]


def test_small_subnets_start_low(spec_of: Load) -> None:
    assert list(addresses(spec_of(hpc("subnet: 10.0.0.0/29", compute="count: 2"))).values()) == [
        "10.0.0.2",
        "10.0.0.3",
        "10.0.0.4",
    ]


def test_one_more_cpu_worker_moves_nobody(spec_of: Load) -> None:
    def load(count: int) -> dict[str, str]:
        workers = f"{{cpu_workers: {{count: {count}}}, gpu_workers: {{count: 2, gpu_enabled: false}}}}"
        return addresses(spec_of(f"{HEAD}clusters: {{cloud: {{worker_nodes: {workers}}}}}\n"))

    assert load(1).items() <= load(2).items()


def test_one_more_compute_node_moves_no_login_node(spec_of: Load) -> None:
    def load(count: int) -> dict[str, str]:
        hpc = f"{{compute_nodes: {{count: {count}}}, login_nodes: {{count: 2}}}}"
        return addresses(spec_of(f"{HEAD}clusters: {{hpc: {hpc}}}\n"))

    assert load(1).items() <= load(2).items()


def test_login_nodes_may_be_named_in_allow(faults: Judge) -> None:
    networks = "{networks: {hpc_network: {allow: [{from: [hpc-login], to: [cloud-control-plane], ports: [6443]}]}}}"
    clusters = "clusters: {hpc: {login_nodes: {count: %s}}, cloud: {}}\n"
    assert faults(f"{HEAD}global: {networks}\n{clusters % 1}") == []
    (fault,) = faults(f"{HEAD}global: {networks}\n{clusters % 0}")
    assert "'hpc-login' has no nodes" in fault


WAYS_OUT = (
    "security: {unattended_upgrades: true, apt_sources: [deb http://mirror.lan/debian bookworm main]}\n"
    "hypervisor: {uri: %s}\n"
)


def test_settings_without_effect_on_an_embedded_hypervisor_are_reported(faults: Judge) -> None:
    fix = "hypervisor.uri qemu:///system, or join the lab's namespace to a network of yours"
    assert faults(hpc("nat: true") + WAYS_OUT % "embedded") == [
        "3:40: warning: global.networks.hpc_network.nat: nat has no effect: the network namespace of an embedded"
        f" hypervisor has no connection to the outside | {fix}",
        "8:33: warning: security.unattended_upgrades: nodes reach no package source: the network namespace of an"
        f" embedded hypervisor has no connection to the outside | {fix}",
    ]


@pytest.mark.parametrize("uri", ["auto", "qemu:///system"])
def test_elsewhere_it_may_do_something(faults: Judge, uri: str) -> None:
    assert faults(hpc("nat: true") + WAYS_OUT % f'"{uri}"') == []


def nat_private(entry: str) -> str:
    return f"""
        version: "1.0"
        metadata: {{name: x}}
        global: {{networks: {{hpc_network: {{nat: true, nat_private: [{entry!r}]}}}}}}
        clusters: {{hpc: {{}}}}
        """


@pytest.mark.parametrize("entry", ["10.20.0.0/16", "192.168.7.1/32", "100.64.0.0/10", "fd12:3456::/32"])
def test_private_ranges_may_be_listed_for_nat(faults: Judge, entry: str) -> None:
    assert not [each for each in faults(nat_private(entry)) if ": error: " in each]


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("169.254.169.254/32", "169.254.169.254/32 is not a private range"),
        ("169.254.0.0/16", "169.254.0.0/16 is not a private range"),
        ("127.0.0.0/8", "127.0.0.0/8 is not a private range"),
        ("0.0.0.0/0", "0.0.0.0/0 is not a private range"),
        ("8.0.0.0/5", "8.0.0.0/5 is not a private range"),  # holds 10.0.0.0/8 and public addresses
        ("1.1.1.0/24", "1.1.1.0/24 is not a private range"),
        ("fe80::/10", "fe80::/10 is not a private range"),
        ("::/0", "::/0 is not a private range"),
        ("::ffff:10.0.0.0/104", "::ffff:a00:0/104 is not a private range"),
        ("10.20.0.1/16", "10.20.0.1/16 has host bits set"),
        ("10.20.0.0/33", "is not a network"),
    ],
)
def test_what_is_not_private_cannot_be_listed_for_nat(faults: Judge, entry: str, what: str) -> None:
    (found,) = [each for each in faults(nat_private(entry)) if ": error: " in each]
    assert "global.networks.hpc_network.nat_private[0]: " in found and what in found
