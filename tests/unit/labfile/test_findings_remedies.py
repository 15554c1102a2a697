"""A printed remedy passes the check that printed it, and the defaults fit together."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from emulator.labfile.findings import Finding
from emulator.labfile.load import parse_spec
from emulator.labfile.model import ClusterSpec
from tests.support.random_examples import examples
from tests.support.remedies import changes, with_change

Tree = dict[str, Any]

A100 = {"model": "A100-SXM4-80GB"}


def lab(**parts: Any) -> Tree:
    """A lab of both clusters; `parts` are values by path, with `__` for the points between keys."""
    tree: Tree = {"version": "1.0", "metadata": {"name": "x"}, "clusters": {"hpc": {}, "cloud": {}}}
    for name, value in parts.items():
        changed = with_change(tree, _ABBREVIATIONS[name.split("__")[0]] + "." + ".".join(name.split("__")[1:]), value)
        assert changed is not None
        tree = changed
    return tree


_ABBREVIATIONS = {
    "net": "global.networks",
    "gpu": "global.gpu_allocation",
    "hpc": "clusters.hpc",
    "cloud": "clusters.cloud",
    "kube": "clusters.cloud.kubernetes_config",
    "slurm": "clusters.hpc.slurm_config",
    "security": "security",
    "hypervisor": "hypervisor",
    "metadata": "metadata",
}
SIMULATED = {"gpu__backend": "simulated", "gpu__devices": [A100]}
# ruff: noqa: E501
# One file for each remedy with a value, and for each one that was wrong before: the code of its finding comes first.
FAULTY: list[tuple[str, Tree]] = [
    ("value.form", lab(net__cloud_network__subnet="192.168.200.256/24")),
    ("value.form", lab(net__hpc_network__subnet="192.168.200.0/24", net__cloud_network__subnet="x")),
    ("value.form", lab(net__hpc_network__subnet="x", net__cloud_network__subnet="192.168.100.0/24")),
    ("value.form", lab(net__hpc_network__bridge="virbr200", net__cloud_network__bridge="a bridge")),
    ("value.form", lab(net__hpc_network__subnet_v6="fd12:3456:789a:100::/64", net__cloud_network__subnet_v6="x")),
    ("value.form", lab(net__hpc_network__subnet="10.244.0.0/16", kube__pod_subnet="x")),
    ("value.form", lab(net__hpc_network__subnet="10.97.0.0/16", kube__service_subnet="x")),
    ("value.form", lab(**SIMULATED, hpc__compute_nodes__gpu={"profile": "A100D-1-10C"})),
    ("value.form", lab(gpu__backend="simulated", gpu__devices=[{"model": "H200", "allowed_mig_profiles": ["1G.18GB"]}])),
    ("value.form", lab(gpu__backend="simulated", gpu__devices=[{"model": "H200"}], hpc__compute_nodes__gpu={"profile": "1"})),
    ("value.type", lab(hpc__compute_nodes__count="2")),
    ("value.type", lab(hpc__compute_nodes__gpu_enabled="no")),
    ("value.range", lab(hpc__controller__memory_gb=1.3)),
    ("value.range", lab(hpc__controller__cpu_cores=999)),
    ("value.choice", lab(kube__cni="calcio")),
    ("network.overlap", lab(net__hpc_network__subnet="10.1.0.0/16", net__cloud_network__subnet="10.1.2.0/24")),
    ("network.overlap", lab(net__hpc_network__subnet="192.168.200.0/24")),
    ("network.overlap", lab(net__hpc_network__subnet="192.168.0.0/16", kube__pod_subnet="172.16.0.0/12")),
    ("network.reserved", lab(net__cloud_network__subnet="127.0.0.0/24", net__hpc_network__subnet="192.168.200.0/24")),
    ("network.size", lab(net__hpc_network__subnet="10.96.0.0/12")),
    ("network.size", lab(net__cloud_network__subnet="192.168.100.0/31")),
    ("network.size", lab(net__cloud_network__subnet_v6="fd12:3456:789a::/48", net__hpc_network__subnet_v6="fd12:3456:789a::/64")),
    ("network.host-bits", lab(net__hpc_network__subnet="192.168.200.7/24")),
    ("network.host-bits", lab(kube__pod_subnet="10.200.0.1/13")),
    ("network.bridge", lab(net__hpc_network__bridge="lo", net__cloud_network__bridge="virbr100")),
    ("address.too-few", lab(hpc__compute_nodes={"count": 5, "ip_range": "192.168.100.11-14"})),
    ("address.too-few", lab(hpc__compute_nodes={"count": 5, "ip_range": "192.168.100.252-254"})),
    ("address.too-few", lab(hpc__compute_nodes={"count": 5, "ip_range": "192.168.100.5-8"}, hpc__controller__ip_address="192.168.100.9")),
    ("allow.ports", lab(net__hpc_network__allow=[{}])),
    ("allow.range", lab(net__hpc_network__allow=[{"ports": ["90-80"]}])),
    ("allow.name", lab(net__hpc_network__allow=[{"to": ["cloud-cpu-workr"], "ports": [1]}], cloud__worker_nodes={"cpu_workers": {"count": 0}, "gpu_workers": {"gpu_enabled": False}})),
    ("kubernetes.version", lab(kube__version="latest", kube__source="modules")),
    ("kubernetes.version", lab(kube__version="latest")),
    ("kubernetes.version", lab(kube__version="1.20.9")),
    ("kubernetes.version", lab(kube__version="1.20", kube__source="modules")),
    ("kubernetes.version", lab(kube__version="1.31")),
    ("kubernetes.source", lab(kube__source="debian-source")),
    ("kubernetes.ingress", lab(kube__ingress="nginx")),
    ("kubernetes.ingress", lab(kube__ingress="nginx", kube__source="modules")),
    ("kubernetes.minimum", lab(cloud__control_plane__cpu_cores=1)),
    ("kubernetes.minimum", lab(cloud__control_plane__memory_gb=1)),
    ("kubernetes.minimum", lab(cloud__control_plane__disk_gb=2)),
    ("kubernetes.minimum", lab(cloud__worker_nodes__cpu_workers={"memory_gb": 0.25})),
    ("kubernetes.no-workers", lab(cloud__worker_nodes__cpu_workers={"count": 0})),
    ("kubernetes.network-policy", lab(kube__network_policy="default-deny")),
    ("kubernetes.network-policy", lab(kube__network_policy="default-deny", kube__source="modules")),
    ("kubernetes.addon", lab(kube__cni="flannel", kube__source="modules")),
    ("kubernetes.subnet", lab(kube__pod_subnet="10.0.0.0/8")),
    ("kubernetes.subnet", lab(kube__service_subnet="10.244.0.0/20", net__hpc_network__subnet="10.96.0.0/16")),
    ("kubernetes.subnet", lab(kube__service_subnet="10.96.0.0/28", net__hpc_network__subnet="10.97.0.0/16")),
    ("kubernetes.subnet", lab(kube__pod_subnet="127.0.0.0/16", net__hpc_network__subnet="10.244.0.0/16")),
    ("kubernetes.subnet", lab(kube__pod_subnet="10.244.0.0/24")),
    ("kubernetes.subnet", lab(net__cloud_network__subnet="172.30.0.0/16", cloud__worker_nodes__cpu_workers={"count": 300})),
    ("kubernetes.subnet", lab(net__cloud_network__subnet="172.30.0.0/16", cloud__control_plane__ip_address="172.30.200.1")),
    ("kubernetes.mig-strategy", lab(**SIMULATED, kube__mig_strategy="none", cloud__worker_nodes__gpu_workers={"gpu": {"profile": "1g.10gb"}})),
    ("gpu.profile", lab(**SIMULATED, hpc__compute_nodes__gpu={"profile": "1g.5gb+me"})),
    ("gpu.profile", lab(gpu__backend="simulated", gpu__devices=[{**A100, "allowed_mig_profiles": ["1g.5gb"]}])),
    ("gpu.mig", lab(gpu__backend="simulated", gpu__devices=[{"model": "L40S", "mig_capable": True}])),
    ("gpu.model", lab(gpu__backend="simulated", gpu__devices=[{"model": "A100"}])),
    ("gpu.strategy", lab(**SIMULATED, hpc__compute_nodes__gpu={"whole": True})),
    ("gpu.strategy", lab(**SIMULATED, gpu__strategy="whole", gpu__mig_slices={"hpc": 2})),
    ("gpu.unallocated", lab(**SIMULATED, gpu__mig_slices={"hpc": 2}, hpc__compute_nodes={"count": 4, "gpu_enabled": True})),
    ("gpu.unallocated", lab(**SIMULATED, gpu__mig_slices={"hpc": {"1g.10gb": 1}}, hpc__compute_nodes={"count": 2, "gpu": {"profile": "2g.20gb"}})),
    ("gpu.unallocated", lab(**SIMULATED, gpu__mig_slices={"hpc": {"1g.10gb": 3}}, hpc__compute_nodes={"count": 2, "gpu": {"profile": "2g.20gb"}})),
    ("slurm.time", lab(slurm__max_job_time="soon")),
    ("slurm.node", lab(hpc__compute_nodes__count=3, slurm__partitions=[{"name": "a", "nodes": ["hpc-compute-1", "hpc-compute_1"]}])),
    ("slurm.node", lab(slurm__partitions=[{"name": "a", "nodes": ["hpc-compute-[1"]}])),
    ("slurm.default-partition", lab(slurm__partitions=["gpu"], slurm__default_partition="gpus")),
    ("metadata.name", lab(metadata__name="ahyr", hpc__compute_nodes__count=14)),
]  # fmt: skip


def judged(tree: Tree) -> tuple[Finding, ...]:
    return parse_spec(json.dumps(tree), file="f")[1].findings


def applied(tree: Tree, finding: Finding, path: str, value: object) -> list[Finding]:
    """What is said about the place of the finding once its remedy has been followed."""
    changed = with_change(tree, path, value)
    assert changed is not None, (finding, path)
    return [each for each in judged(changed) if each.path in (finding.path, path) and each.severity == "error"]


@pytest.mark.parametrize(("code", "tree"), FAULTY, ids=[f"{code}-{number}" for number, (code, _) in enumerate(FAULTY)])
def test_a_remedy_passes_the_check_that_printed_it(code: str, tree: Tree) -> None:
    findings = [each for each in judged(tree) if each.code == code]
    assert findings, [each.render() for each in judged(tree)]
    for finding in findings:
        for path, value in changes(finding):
            left = applied(tree, finding, path, value)
            assert left == [], (finding.render(), path, value, [each.render() for each in left])


# These name no value: the addresses after a range are taken, and no network has room for a number of 16 bits.
WITHOUT_VALUE = {
    "use other addresses, or lower count to 3",
    "use other addresses, or lower count to 4",
    "give the nodes addresses up to 172.30.0.255",
}


def test_these_remedies_name_a_value() -> None:
    silent = {
        finding.fix
        for code, tree in FAULTY
        for finding in judged(tree)
        if finding.code == code and not list(changes(finding))
    }
    assert silent == WITHOUT_VALUE


SUBNETS = st.tuples(st.integers(0, 2**32 - 1), st.integers(7, 32)).map(
    lambda pair: f"{pair[0] >> 24}.{pair[0] >> 16 & 255}.{pair[0] >> 8 & 255}.{pair[0] & 255}/{pair[1]}"
)
NEAR = st.sampled_from(
    ["10.96.0.0/16", "10.244.0.0/16", "10.0.0.0/9", "192.168.100.0/24", "192.168.200.9/24", "192.168.0.0/16", "x", "172.16.0.0/12"]
)  # fmt: skip
KEYS = (
    "global.networks.hpc_network.subnet",
    "global.networks.cloud_network.subnet",
    "clusters.cloud.kubernetes_config.pod_subnet",
    "clusters.cloud.kubernetes_config.service_subnet",
)


@examples(60)
@given(st.dictionaries(st.sampled_from(KEYS), SUBNETS | NEAR, min_size=1), st.integers(0, 400))
def test_remedies_for_networks_pass_whatever_the_others_are(chosen: dict[str, str], workers: int) -> None:
    tree = lab(cloud__worker_nodes__cpu_workers={"count": workers})
    for path, subnet in chosen.items():
        changed = with_change(tree, path, subnet)
        assert changed is not None
        tree = changed
    for finding in judged(tree):
        for where, remedy in changes(finding):
            left = applied(tree, finding, where, remedy)
            assert left == [], (finding.render(), where, remedy, [each.render() for each in left])


PROFILES = st.from_regex(r"(mig-|MIG )?[1-7][gG]\.?[0-9]{1,3}(gb|GB)?([+.-]me)?", fullmatch=True)


@examples(60)
@given(PROFILES, st.sampled_from(["A30", "A100-SXM4-80GB", "H200", "GB200", "B300"]))
def test_remedies_for_profiles_pass_on_every_gpu(profile: str, model: str) -> None:
    tree = lab(gpu__backend="simulated", gpu__devices=[{"model": model}], hpc__compute_nodes__gpu={"profile": profile})
    for finding in judged(tree):
        if finding.path.endswith(".profile"):
            found = list(changes(finding))
            assert found, finding.render()
            assert all(not applied(tree, finding, *each) for each in found), finding.render()


@pytest.mark.parametrize("prefix", range(16, 30))
@pytest.mark.parametrize("key", ["hpc_network", "cloud_network"])
def test_defaults_fit_together_in_every_subnet(spec_of: Callable[[str], ClusterSpec], prefix: int, key: str) -> None:
    workers = {"cpu_workers": {"count": 1}, "gpu_workers": {"count": 1}}
    tree = lab(**SIMULATED, **{f"net__{key}__subnet": f"172.30.0.0/{prefix}"}, cloud__worker_nodes=workers)
    spec = spec_of(yaml.safe_dump(tree))
    assert re.search(r"cloud-gpu-worker-1", " ".join(node.name for node in spec.nodes))
    assert len({node.ip for node in spec.nodes}) == len(spec.nodes) == 5
