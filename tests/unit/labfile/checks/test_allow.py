"""What may pass between the networks: entries of `allow`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.labfile.checks.allow import merged_ports
from emulator.labfile.model import ClusterKind, ClusterSpec
from emulator.labfile.networks import AllowSpec, Protocol

Judge = Callable[[str], list[str]]
Load = Callable[[str], ClusterSpec]


def lab(entry: str, *, side: str = "hpc", clusters: str = "hpc: {compute_nodes: {count: 2}}, cloud: {}") -> str:
    return (
        'version: "1.0"\nmetadata: {name: x}\n'
        f"global:\n  networks:\n    {side}_network:\n      allow:\n        - {{{entry}}}\n"
        f"clusters: {{{clusters}}}\n"
    )


AT = "global.networks.hpc_network.allow[0]"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (
            "to: [cloud-controlplane], ports: [80]",
            [
                f"7:17: error: {AT}.to[0]: the cloud cluster has no node or group 'cloud-controlplane'"
                " | did you mean 'cloud-control-plane'?"
            ],
        ),
        (
            "from: [zzz], ports: [80]",
            [
                f"7:19: error: {AT}.from[0]: the hpc cluster has no node or group 'zzz'"
                " | one of hpc-controller, hpc-compute, hpc-compute-1, hpc-compute-2"
            ],
        ),
        (
            "from: [hpc-compute-3], ports: [80]",
            [
                f"7:19: error: {AT}.from[0]: the hpc cluster has no node or group 'hpc-compute-3'"
                " | did you mean 'hpc-compute-2'?"
            ],
        ),
        (
            "to: [hpc-compute-1], ports: [80]",
            [
                f"7:17: error: {AT}.to[0]: 'hpc-compute-1' is no node of the cloud cluster: nodes of the same network"
                " always reach each other | entries of hpc_network lead from hpc to cloud nodes"
            ],
        ),
        ("", [f"7:11: error: {AT}: tcp needs `ports` | for example `ports: [443]`"]),
        (
            "protocol: icmp, ports: [80]",
            [f"7:28: error: {AT}.ports: icmp has no ports | remove `ports`, or name tcp or udp as the protocol"],
        ),
        (
            "ports: [90-80, 70000-70001]",
            [
                f"7:20: error: {AT}.ports[0]: '90-80' ends before it begins | for example 8000-8100",
                f"7:27: error: {AT}.ports[1]: '70000-70001' is not between 1 and 65535 | for example 8000-8100",
            ],
        ),
        (
            "ports: [0, http]",
            [
                f"7:20: error: {AT}.ports[0]: expected a port from 1 to 65535 or a range such as 8000-8100, got 0",
                f"7:23: error: {AT}.ports[1]: expected a port from 1 to 65535 or a range such as 8000-8100, got 'http'",
            ],
        ),
        (
            "port: 80",
            [
                f"7:11: error: {AT}: tcp needs `ports` | for example `ports: [443]`",
                f"7:12: error: {AT}: unknown key 'port' | did you mean 'ports'?",
            ],
        ),
        (
            "to: [], ports: [80]",
            [f"7:12: error: {AT}.to: expected at least 1 item, got an empty list"],
        ),
    ],
)
def test_faults_are_told_at_their_place(faults: Judge, entry: str, expected: list[str]) -> None:
    assert faults(lab(entry)) == expected


def test_a_lab_of_one_cluster_has_nobody_to_allow(faults: Judge) -> None:
    (fault,) = faults(lab("ports: [80]", clusters="hpc: {}"))
    assert fault == (
        f"7:11: error: {AT}: the lab has no cloud cluster that the nodes of hpc_network could reach"
        " | remove the entry, or add `clusters.cloud`"
    )


def test_a_group_without_nodes(faults: Judge) -> None:
    clusters = "hpc: {}, cloud: {worker_nodes: {cpu_workers: {count: 0}}}"
    found = faults(lab("to: [cloud-cpu-worker], ports: [80]", clusters=clusters))
    assert f"7:17: error: {AT}.to[0]: 'cloud-cpu-worker' has no nodes | remove the name, or raise the count" in found


def test_entries_as_the_lab_means_them(spec_of: Load) -> None:
    spec = spec_of(lab("from: [hpc-compute, hpc-compute-1, hpc-controller], ports: [8000-8100, 443, 8050, 444]"))
    assert spec.networks[ClusterKind.HPC].allow == (
        AllowSpec(("hpc-compute-1", "hpc-compute-2", "hpc-controller"), (), Protocol.TCP, ("443-444", "8000-8100")),
    )
    spec = spec_of(lab('to: [hpc-controller], protocol: udp, ports: ["53"]', side="cloud"))
    assert spec.networks[ClusterKind.CLOUD].allow == (AllowSpec((), ("hpc-controller",), Protocol.UDP, ("53",)),)


ports = st.tuples(st.integers(1, 40), st.integers(1, 40)).map(sorted)


@given(st.lists(ports, min_size=1))
def test_merged_ports_are_the_same_ports_without_overlaps(spans: list[list[int]]) -> None:
    merged = merged_ports(f"{first}-{last}" for first, last in spans)
    covered: list[int] = []
    for text in merged:
        first, _, last = text.partition("-")
        covered += range(int(first), int(last or first) + 1)
    assert covered == sorted({port for first, last in spans for port in range(first, last + 1)})
