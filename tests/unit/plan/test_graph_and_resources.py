from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.core.errors import StateError
from emulator.core.paths import Home
from emulator.labfile.load import parse_spec
from emulator.plan.build import Placement, build
from emulator.plan.graph import dependents, topological_order
from emulator.plan.resources import (
    DhcpReservation,
    FilteredNode,
    Firewall,
    FirewallRule,
    FirewallZone,
    Network,
    Volume,
    resource_from_json,
)

DIGESTS = ["aaa24a6ef4f218e0", "5e1c3f254c039ebe", "a221df0f1643599e"]
NETWORK = Network(
    name="hpc",
    uuid="u",
    bridge="virbr1",
    subnet="10.0.0.0/24",
    gateway="10.0.0.1",
    dns_domain="x",
    hosts=(DhcpReservation(mac="m", ip="10.0.0.2", name="n"),),
    nat=True,
)


def test_order_keeps_ties_and_puts_needs_first() -> None:
    assert topological_order({"c": ["a"], "a": [], "b": []}) == ["a", "c", "b"]


def test_needs_outside_count_as_fulfilled() -> None:
    assert topological_order({"a": ["elsewhere"]}) == ["a"]


def test_circle_is_named() -> None:
    with pytest.raises(StateError, match="in a circle: b and a"):
        topological_order({"a": ["b"], "b": ["a"]})


def test_a_long_chain_does_not_recurse() -> None:
    chain = {str(number): [str(number + 1)] for number in range(5000)}
    assert topological_order(chain)[-1] == "0"


@given(st.dictionaries(st.integers(0, 30), st.sets(st.integers(0, 30))))
def test_order_of_any_acyclic_graph(raw: dict[int, set[int]]) -> None:
    graph = {str(node): [str(need) for need in needs if need < node] for node, needs in raw.items()}
    order = topological_order(graph)
    assert sorted(order) == sorted(graph)
    for node, needs in graph.items():
        assert all(order.index(need) < order.index(node) for need in needs if need in graph)


def test_dependents_are_transitive() -> None:
    assert dependents({"c": ["b"], "b": ["a"], "x": []}, ["a"]) == {"b", "c"}


def test_json_round_trip_keeps_nested_records() -> None:
    assert resource_from_json(json.loads(json.dumps(NETWORK.to_json()))) == NETWORK


def test_a_network_of_an_older_version_is_read() -> None:
    data = {key: value for key, value in NETWORK.to_json().items() if key not in ("aliases", "filtering")}
    old = resource_from_json(json.loads(json.dumps(data)))
    assert isinstance(old, Network)
    assert (old.aliases, old.filtering) == ((), "libvirt")


def test_json_round_trip_of_records_within_records() -> None:
    firewall = Firewall(
        name="lab",
        table="t",
        zones=(
            FirewallZone(
                name="hpc",
                bridge="b",
                subnet="s",
                gateway="g",
                nat=True,
                nodes=(FilteredNode(name="n", mac="m", ip="i"),),
            ),
        ),
        rules=(
            FirewallRule(
                name="r",
                source_zone="hpc",
                target_zone="cloud",
                sources=("a",),
                targets=(),
                protocol="tcp",
                ports=("1",),
            ),
        ),
    )
    assert resource_from_json(json.loads(json.dumps(firewall.to_json()))) == firewall


def test_what_ipv6_has_added_is_in_no_record_of_a_lab_without_it() -> None:
    text = """
version: "1.0"
metadata: {name: demo}
global: {networks: {hpc_network: {nat: true, allow: [{protocol: icmp}]}}}
clusters: {hpc: {compute_nodes: {count: 2}}, cloud: {}}
"""
    spec, _report = parse_spec(text, file="lab.yaml")
    assert spec is not None
    made = {each.id: each for each in build(spec, Placement(Home(Path("/h")).lab("demo"), None, accelerated=False))}
    # From before there was IPv6: the marks of labs made then bear these digests, and each must be known again.
    assert [made[key].digest for key in ("firewall/lab", "network/hpc", "network/cloud")] == DIGESTS
    for each in made.values():
        assert "_v6" not in json.dumps(each.to_json())


def test_a_field_that_is_left_out_is_a_difference_all_the_same() -> None:
    dual = dataclasses.replace(NETWORK, subnet_v6="fd00::/64", gateway_v6="fd00::1")
    assert resource_from_json(json.loads(json.dumps(dual.to_json()))) == dual
    assert dual.digest != NETWORK.digest
    assert dual.differences(NETWORK) == {"subnet_v6": ("", "fd00::/64"), "gateway_v6": ("", "fd00::1")}
    assert NETWORK.differences(dual) == {"subnet_v6": ("fd00::/64", ""), "gateway_v6": ("fd00::1", "")}
    host = dataclasses.replace(NETWORK.hosts[0], ip_v6="fd00::2")
    assert set(dataclasses.replace(NETWORK, hosts=(host,)).differences(NETWORK)) == {"hosts"}


def test_digest_covers_every_field_but_needs() -> None:
    assert dataclasses.replace(NETWORK, needs=("x",)).digest == NETWORK.digest
    assert dataclasses.replace(NETWORK, nat=False).digest != NETWORK.digest
    assert dataclasses.replace(NETWORK, hosts=()).digest != NETWORK.digest


def test_differences_give_old_and_new() -> None:
    old = Volume(name="a", path="/x", image="i", size_gib=8)
    assert dataclasses.replace(old, size_gib=9, needs=("y",)).differences(old) == {"size_gib": (8, 9)}


@pytest.mark.parametrize("data", [{}, {"kind": "gizmo"}, {"kind": ["volume"]}])
def test_unknown_kind_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(StateError, match="unknown kind"):
        resource_from_json(data)


def test_record_with_unknown_fields_is_refused() -> None:
    with pytest.raises(StateError, match="damaged record of a volume"):
        resource_from_json({"kind": "volume", "name": "a", "colour": "red"})
