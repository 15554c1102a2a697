"""An edited file: the plan is exactly the difference, and after it there is none."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.core.debian.releases import image_of
from emulator.core.errors import ConflictError, UsageError
from emulator.core.ports import DnsName
from emulator.lab.lab_files import load_lab_file
from emulator.plan.model import Plan
from tests.support import simulated_world
from tests.support.simulated_world import SYSTEM_URI, SimulatedHost, lab_text
from tests.support.stop_points import in_sequence


def told(plan: Plan) -> set[tuple[str, str]]:
    return {(change.action.value, change.resource.id) for change in plan.changes}


OTHER_SUBNET = "networks: {hpc_network: {subnet: 192.168.140.0/24}}"
EDITS: dict[str, tuple[dict[str, Any], dict[str, Any], set[tuple[str, str]]]] = {
    "scale out": (
        {},
        {"compute": 2},
        {
            ("update", "firewall/lab"),
            ("update", "network/hpc"),
            ("create", "volume/hpc-compute-2"),
            ("create", "domain/hpc-compute-2"),
        },
    ),
    "scale in": (
        {"compute": 2},
        {},
        {
            ("update", "firewall/lab"),
            ("update", "network/hpc"),
            ("delete", "volume/hpc-compute-2"),
            ("delete", "domain/hpc-compute-2"),
        },
    ),
    "more memory": ({}, {"memory": 2}, {("update", "domain/hpc-compute-1")}),
    "bigger disk": ({}, {"disk": 6}, {("update", "volume/hpc-compute-1"), ("repair", "domain/hpc-compute-1")}),
    "another subnet": (
        {},
        {"extra": OTHER_SUBNET},
        {
            ("update", "firewall/lab"),
            ("replace", "network/hpc"),
            ("replace", "domain/hpc-controller"),
            ("replace", "domain/hpc-compute-1"),
        },
    ),
}


@pytest.mark.parametrize("hypervisor", ["embedded", SYSTEM_URI])
@pytest.mark.parametrize("name", EDITS)
def test_the_plan_is_the_difference(host: SimulatedHost, name: str, hypervisor: str) -> None:
    before, after, expected = EDITS[name]
    host.provision(host.lab_file(lab_text(hypervisor=hypervisor, **before)))
    edited = host.lab_file(lab_text(hypervisor=hypervisor, **after))
    assert told(host.plan(edited)) == expected
    made = host.provision(edited)
    assert all(check.ok for check in made.checks) and len(made.checks) == len(edited.spec.nodes)
    assert host.plan(edited).is_empty
    assert not any(host.provision(edited).changed.values())


def test_a_lab_that_was_edited_is_destroyed_whole(host: SimulatedHost) -> None:
    before = host.save()
    host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI, compute=2)))
    host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI, extra=OTHER_SUBNET)))
    host.destroy()
    kept = {"machine/locks", "home/locks", "home/images", "home/hypervisors", "home/audit.jsonl"}
    left = {name for name in host.save() if not any(name.startswith(top) for top in kept)}
    assert left == set(before) | ({"machine/configured.json"} & left)


def test_a_disk_does_not_shrink(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text(disk=6)))
    with pytest.raises(ConflictError, match="would shrink from 6 GiB to 4 GiB"):
        host.provision(host.lab_file(lab_text(disk=4)))


def test_images_are_looked_at_only_for_disks_that_are_to_be_made(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = host.lab_file(lab_text())
    host.provision(loaded)

    def gone(_images: object, name: str) -> str | None:
        raise UsageError(f"the sources of {name} are gone")

    monkeypatch.setattr(simulated_world.SimulatedImages, "needs_build", gone)
    assert host.plan(loaded).is_empty
    assert host.plan(host.lab_file(lab_text(memory=2, disk=6))).changes
    with pytest.raises(UsageError, match=f"the sources of {image_of('hpc-base', None)} are gone"):
        host.plan(host.lab_file(lab_text(compute=2)))


def test_a_bundle_lies_beside_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = 'version: "1.0"\nmetadata: {name: x}\n'
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/somebody")
    for source, expected in (
        ("sub/k8s.bundle", f"{tmp_path}/sub/k8s.bundle"),
        ("/srv/x.bundle", "/srv/x.bundle"),
        (" /srv/x.bundle ", "/srv/x.bundle"),
        ("~/x.bundle", "/home/somebody/x.bundle"),
        (" ~/x y.bundle", "/home/somebody/x y.bundle"),
        ("~nobody-of-this-name/x.bundle", f"{tmp_path}/~nobody-of-this-name/x.bundle"),
    ):
        (tmp_path / "lab.yaml").write_text(
            f"{head}clusters: {{cloud: {{kubernetes_config: {{source: 'bundle:{source}'}}}}}}\n"
        )
        kubernetes = load_lab_file(tmp_path / "lab.yaml").spec.kubernetes
        assert kubernetes is not None
        assert kubernetes.source == f"bundle:{expected}"


def both_clusters(allow: str = "", *, cloud: bool = True, nat: bool = False, subnet_v6: str = "") -> str:
    small = "cpu_cores: 2, memory_gb: 2, disk_gb: 20"
    second = f"\n  cloud: {{control_plane: {{{small}}}, worker_nodes: {{cpu_workers: {{count: 1, {small}}}}}}}"
    ipv6 = f", subnet_v6: {subnet_v6}" if subnet_v6 else ""
    networks = f"networks: {{hpc_network: {{nat: {str(nat).lower()}, allow: [{allow}]{ipv6}}}}}"
    return lab_text(hypervisor=SYSTEM_URI, extra=networks).replace(
        "\nhypervisor:", f"{second if cloud else ''}\nhypervisor:", 1
    )


def test_an_edit_of_what_is_allowed_changes_the_firewall_alone(host: SimulatedHost) -> None:
    host.provision(host.lab_file(both_clusters()))
    edited = host.lab_file(both_clusters("{to: [cloud-control-plane], ports: [6443]}, {protocol: icmp}"))
    (change,) = host.plan(edited).changes
    assert (change.action.value, change.resource.id) == ("update", "firewall/lab")
    assert change.reason == "rules +hpc to cloud-control-plane: tcp 6443 +hpc to cloud: icmp"
    host.provision(edited)
    assert host.plan(edited).is_empty


def test_a_way_out_restarts_the_network_that_gets_one(host: SimulatedHost) -> None:
    """Its DNS answers for the world, too, and that dnsmasq learns at its start alone."""
    host.provision(host.lab_file(both_clusters()))
    edited = host.lab_file(both_clusters(nat=True))
    assert told(host.plan(edited)) == {
        ("update", "firewall/lab"),
        ("replace", "network/hpc"),
        ("replace", "domain/hpc-controller"),
        ("replace", "domain/hpc-compute-1"),
    }


def test_ipv6_comes_and_goes_with_the_network_that_has_it(host: SimulatedHost) -> None:
    """The other network runs on: of the nodes of the first it learns names alone."""
    plain = host.lab_file(both_clusters())
    host.provision(plain)
    digests = {info.name: info.owner and info.owner.digest for info in host.hypervisor(quiet=True).networks()}
    expected = {
        ("update", "firewall/lab"),
        ("update", "network/cloud"),
        ("replace", "network/hpc"),
        ("replace", "domain/hpc-controller"),
        ("replace", "domain/hpc-compute-1"),
    }
    edited = host.lab_file(both_clusters(subnet_v6="fd00:100::/64"))
    plan = host.plan(edited)
    assert told(plan) == expected
    reasons = {change.resource.id: change.reason for change in plan.changes}
    assert "gateway v6 none -> fd00:100::1" in reasons["network/hpc"]
    assert "subnet v6 none -> fd00:100::/64" in reasons["network/hpc"]
    host.provision(edited)
    assert host.plan(edited).is_empty
    libvirt = host.hypervisor(quiet=True)
    for name, names in (
        ("demo-hpc", ("hpc-controller",)),
        ("demo-cloud", ("hpc-controller.hpc.demo.internal", "hpc-controller")),
    ):
        info = libvirt.network(name)
        assert info is not None and info.live is not None
        assert DnsName(IPv6Address("fd00:100::a"), names) in info.names
        assert info.live.names == info.names
    plain = host.lab_file(both_clusters())
    assert told(host.plan(plain)) == expected
    host.provision(plain)
    assert host.plan(plain).is_empty
    after = {info.name: info.owner and info.owner.digest for info in host.hypervisor(quiet=True).networks()}
    assert after == digests


def test_a_cluster_comes_and_goes_and_the_other_one_runs_on(host: SimulatedHost) -> None:
    alone = host.lab_file(both_clusters(cloud=False))
    host.provision(alone)
    both = host.lab_file(both_clusters())
    others = {("update", "firewall/lab"), ("update", "network/hpc")}
    parts = {"network/cloud"} | {
        f"{kind}/{node}" for kind in ("volume", "domain") for node in ("cloud-control-plane", "cloud-cpu-worker-1")
    }
    plan = host.plan(both)
    assert told(plan) - {("create", f"image/{image_of('cloud-base', None)}")} == others | {
        ("create", part) for part in parts
    }
    host.provision(both)
    assert host.plan(both).is_empty
    alone = host.lab_file(both_clusters(cloud=False))
    assert told(host.plan(alone)) == others | {("delete", part) for part in parts}
    host.provision(alone)
    assert host.plan(alone).is_empty


def test_a_guest_s_shutdown_takes_as_long_as_the_file_allows(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    kept = SimulatedHypervisor.shutdown_domain

    def shutdown(hypervisor: SimulatedHypervisor, name: str, *, timeout: float) -> None:
        seen.append(timeout)
        kept(hypervisor, name, timeout=timeout)

    monkeypatch.setattr(SimulatedHypervisor, "shutdown_domain", shutdown)
    host.provision(host.lab_file(lab_text()))
    text = lab_text(memory=2).replace("timeouts: {boot: 10}", "timeouts: {boot: 10, shutdown: 77}")
    host.provision(host.lab_file(text))
    assert seen == [77]


def test_a_golden_image_is_kept_from_removal_until_the_disk_is_on_it(host: SimulatedHost) -> None:
    log: list[str] = []
    host.hook.before = lambda name: log.append(name)
    host.hook.after = lambda name: log.append(f"{name} done")
    with in_sequence():
        host.provision(host.lab_file(lab_text()))
    log = [line for line in log if line.startswith(("images.kept", "images.current", "create_overlay"))]
    whole = ["images.kept", "images.current", "images.current done", "create_overlay", "create_overlay done"]
    start = log.index("images.kept")
    assert log[start:] == [*whole, "images.kept done"] * 2


def test_disks_are_made_from_the_images_that_the_plan_looked_at(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is current may be another lab's by then; only what looked knows what it was."""
    looked: list[object] = []
    taken: list[object] = []

    class Images(simulated_world.SimulatedImages):
        def needs_build(self, name: str) -> str | None:
            looked.append(self)
            return super().needs_build(name)

        def current(self, name: str) -> simulated_world.Image | None:
            taken.append(self)
            return super().current(name)

    host.provision(host.lab_file(lab_text()))
    monkeypatch.setattr(simulated_world, "SimulatedImages", Images)
    host.provision(host.lab_file(lab_text(compute=2)))
    assert taken
    assert all(each is looked[0] for each in (*looked, *taken))
