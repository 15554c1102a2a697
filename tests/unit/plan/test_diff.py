"""Wanted x recorded x observed -> changes with reasons."""

from __future__ import annotations

import dataclasses

import pytest

from emulator.plan.diff import diff
from emulator.plan.model import Action, Observation, Plan, Presence, Recorded
from emulator.plan.resources import (
    DhcpReservation,
    Domain,
    Firewall,
    GoldenImage,
    Hypervisor,
    Network,
    Resource,
    Volume,
)

HYPERVISOR = Hypervisor(name="embedded", directory="/lab/hypervisor", namespace="hs-demo")
IMAGE = GoldenImage(name="hpc-base")
FIREWALL = Firewall(name="lab", needs=(HYPERVISOR.id,), table="hyperscaler_demo", zones=(), rules=())
NETWORK = Network(
    name="hpc",
    needs=(HYPERVISOR.id,),
    uuid="u-net",
    bridge="virbr100",
    subnet="192.168.100.0/24",
    gateway="192.168.100.1",
    dns_domain="hpc.demo.internal",
    hosts=(DhcpReservation(mac="52:54:00:00:00:01", ip="192.168.100.10", name="a"),),
    nat=False,
)
VOLUME = Volume(name="a", needs=(IMAGE.id,), path="/lab/disks/a.qcow2", image="hpc-base", size_gib=8)
DOMAIN = Domain(
    name="a",
    needs=(HYPERVISOR.id, VOLUME.id, NETWORK.id),
    uuid="u-a",
    node="a",
    vcpus=1,
    memory_mib=1024,
    mac="52:54:00:00:00:01",
    ip="192.168.100.10",
    network=NETWORK.id,
    volume=VOLUME.id,
    console_log="/lab/console/a.log",
    accelerated=False,
)
ALL: tuple[Resource, ...] = (HYPERVISOR, IMAGE, NETWORK, VOLUME, DOMAIN)
HERE = {resource.id: Observation(Presence.OURS) for resource in ALL}
RECORD = {resource.id: Recorded(resource, {}) for resource in ALL}


def changes(plan: Plan) -> list[tuple[str, str]]:
    return [(change.action.value, change.resource.id) for change in plan.changes]


def test_a_disk_that_lets_in_another_account_is_kept_and_named() -> None:
    wanted = dataclasses.replace(VOLUME, admin="labadmin")
    resources = [wanted if resource is VOLUME else resource for resource in ALL]
    plan = diff("demo", resources, RECORD, HERE)
    assert [blocker.resource_id for blocker in plan.blockers] == ["volume/a"]
    assert "whose image lets root in and not labadmin" in plan.blockers[0].what
    assert plan.changes == ()
    # A disk that is gone is made anew, with the account.
    gone = {**HERE, VOLUME.id: Observation(Presence.ABSENT)}
    plan = diff("demo", resources, RECORD, gone)
    assert plan.blockers == ()
    assert changes(plan) == [("create", "volume/a"), ("replace", "domain/a")]


@pytest.mark.parametrize("presence", [Presence.OURS, Presence.ABSENT, Presence.PARTIAL])
def test_a_disk_on_record_at_another_path_is_never_replaced(presence: Presence) -> None:
    elsewhere = dataclasses.replace(VOLUME, path="/link/disks/a.qcow2")
    record = {**RECORD, VOLUME.id: Recorded(elsewhere, {})}
    plan = diff("demo", ALL, record, {**HERE, VOLUME.id: Observation(presence)})
    assert [blocker.resource_id for blocker in plan.blockers] == ["volume/a"]
    assert "on record as /link/disks/a.qcow2, and would now be /lab/disks/a.qcow2" in plan.blockers[0].what
    assert plan.changes == ()


def test_nothing_there_creates_everything_in_order() -> None:
    plan = diff("demo", ALL, {}, {})
    assert changes(plan) == [
        ("create", "hypervisor/embedded"),
        ("create", "image/hpc-base"),
        ("create", "network/hpc"),
        ("create", "volume/a"),
        ("create", "domain/a"),
    ]
    assert {change.reason for change in plan.changes} == {"not present"}


def test_everything_there_is_an_empty_plan() -> None:
    assert diff("demo", ALL, RECORD, HERE).is_empty


def test_destroy_goes_backwards_and_keeps_images() -> None:
    plan = diff("demo", (), RECORD, {})
    assert changes(plan) == [
        ("delete", "domain/a"),
        ("delete", "volume/a"),
        ("delete", "network/hpc"),
        ("delete", "hypervisor/embedded"),
    ]


@pytest.mark.parametrize(
    ("observation", "record", "action", "reason"),
    [
        (Observation(Presence.ABSENT), RECORD["domain/a"], "create", "removed outside of hyperscaler"),
        (
            Observation(Presence.ABSENT),
            dataclasses.replace(RECORD["domain/a"], open_action="create"),
            "create",
            "an interrupted run had begun it",
        ),
        (Observation(Presence.OURS), None, "adopt", "not on record"),
        (
            Observation(Presence.OURS),
            dataclasses.replace(RECORD["domain/a"], open_action="create"),
            "adopt",
            "not recorded by the interrupted run",
        ),
        (Observation(Presence.PARTIAL), None, "replace", "left it incomplete"),
        (Observation(Presence.OURS, drift=("is shutoff",)), RECORD["domain/a"], "repair", "is shutoff"),
        (Observation(Presence.UNKNOWN, detail="hypervisor down"), RECORD["domain/a"], "repair", "hypervisor down"),
        (Observation(Presence.OURS, digest="other"), None, "update", "not the recorded ones"),
    ],
)
def test_judgement_of_a_domain(observation: Observation, record: Recorded | None, action: str, reason: str) -> None:
    recorded = {key: value for key, value in RECORD.items() if key != DOMAIN.id}
    if record:
        recorded[DOMAIN.id] = record
    plan = diff("demo", ALL, recorded, {**HERE, DOMAIN.id: observation})
    assert changes(plan) == [(action, "domain/a")]
    assert reason in plan.changes[0].reason


def test_more_memory_updates_in_place_and_says_from_what_to_what() -> None:
    bigger = dataclasses.replace(DOMAIN, memory_mib=2048)
    plan = diff("demo", (*ALL[:-1], bigger), RECORD, HERE)
    assert changes(plan) == [("update", "domain/a")]
    assert plan.changes[0].reason == "memory mib 1024 -> 2048"
    assert plan.changes[0].previous == DOMAIN


def test_another_address_replaces_the_domain_but_not_its_disk() -> None:
    moved = dataclasses.replace(DOMAIN, ip="192.168.100.99")
    plan = diff("demo", (*ALL[:-1], moved), RECORD, HERE)
    assert changes(plan) == [("replace", "domain/a")]


def test_a_new_node_updates_the_network_and_adds_only_itself() -> None:
    network = dataclasses.replace(
        NETWORK, hosts=(*NETWORK.hosts, DhcpReservation(mac="52:54:00:00:00:02", ip="192.168.100.11", name="b"))
    )
    volume = dataclasses.replace(VOLUME, name="b", path="/lab/disks/b.qcow2")
    domain = dataclasses.replace(DOMAIN, name="b", node="b", uuid="u-b", volume=volume.id)
    wanted = (HYPERVISOR, IMAGE, network, VOLUME, DOMAIN, volume, domain)
    plan = diff("demo", wanted, RECORD, HERE)
    assert changes(plan) == [("update", "network/hpc"), ("create", "volume/b"), ("create", "domain/b")]
    assert plan.changes[0].reason == "hosts +b"


def test_a_node_that_left_the_file_is_deleted_before_the_network_changes() -> None:
    network = dataclasses.replace(NETWORK, hosts=())
    plan = diff("demo", (HYPERVISOR, IMAGE, network), RECORD, HERE)
    assert changes(plan) == [("delete", "domain/a"), ("delete", "volume/a"), ("update", "network/hpc")]
    assert plan.changes[0].reason == "no longer wanted"


def test_a_network_made_anew_takes_its_domains_with_it() -> None:
    network = dataclasses.replace(NETWORK, subnet="10.0.0.0/24", gateway="10.0.0.1")
    plan = diff("demo", (HYPERVISOR, IMAGE, network, VOLUME, DOMAIN), RECORD, HERE)
    assert changes(plan) == [("replace", "network/hpc"), ("replace", "domain/a")]
    assert plan.changes[1].reason == "network/hpc is made anew"


def test_a_missing_network_restarts_the_domains_on_it() -> None:
    plan = diff("demo", ALL, RECORD, {**HERE, NETWORK.id: Observation(Presence.ABSENT)})
    assert changes(plan) == [("create", "network/hpc"), ("replace", "domain/a")]


def test_a_stale_image_is_left_alone_while_no_disk_is_made_from_it() -> None:
    stale = {IMAGE.id: Observation(Presence.ABSENT, detail="its recipe has changed")}
    assert diff("demo", ALL, RECORD, {**HERE, **stale}).is_empty
    plan = diff("demo", ALL, RECORD, {**HERE, **stale, VOLUME.id: Observation(Presence.ABSENT)})
    assert changes(plan) == [("create", "image/hpc-base"), ("create", "volume/a"), ("replace", "domain/a")]
    assert plan.changes[0].reason == "its recipe has changed"


def test_a_disk_grows_and_its_domain_restarts() -> None:
    bigger = dataclasses.replace(VOLUME, size_gib=16)
    plan = diff("demo", (HYPERVISOR, IMAGE, NETWORK, bigger, DOMAIN), RECORD, HERE)
    assert changes(plan) == [("update", "volume/a"), ("repair", "domain/a")]


def test_a_disk_never_shrinks() -> None:
    smaller = dataclasses.replace(VOLUME, size_gib=4)
    plan = diff("demo", (HYPERVISOR, IMAGE, NETWORK, smaller, DOMAIN), RECORD, HERE)
    assert [blocker.resource_id for blocker in plan.blockers] == ["volume/a"]
    assert "from 8 GiB to 4 GiB" in plan.blockers[0].what
    assert plan.is_empty


def test_something_foreign_blocks_and_is_named() -> None:
    foreign = Observation(Presence.FOREIGN, detail="a domain demo-a is there already (of lab other)")
    plan = diff("demo", ALL, {}, {DOMAIN.id: foreign})
    assert "lab other" in plan.blockers[0].what
    assert DOMAIN.id not in {change.resource.id for change in plan.changes}


def test_what_is_found_without_a_record_is_deleted_with_the_lab() -> None:
    plan = diff("demo", (), {}, {}, found=(NETWORK, DOMAIN))
    assert changes(plan) == [("delete", "domain/a"), ("delete", "network/hpc")]
    assert plan.changes[0].reason == "belongs to the lab, but is not on record"


def test_digest_names_exactly_these_changes() -> None:
    one = diff("demo", ALL, {}, {})
    bigger = dataclasses.replace(DOMAIN, memory_mib=2048)
    assert one.digest == diff("demo", ALL, {}, {}).digest
    assert one.digest != diff("demo", (*ALL[:-1], bigger), {}, {}).digest
    assert one.to_json()["changes"][0] == {
        "action": "create",
        "kind": "hypervisor",
        "id": "hypervisor/embedded",
        "reason": "not present",
    }


def test_every_action_has_a_sign() -> None:
    assert len({action.sign for action in Action}) == len(Action)


def test_a_lab_of_an_older_version_gets_its_networks_made_anew() -> None:
    """Its networks were filtered by libvirt, and there was no firewall."""
    newer = dataclasses.replace(NETWORK, needs=(HYPERVISOR.id, FIREWALL.id), filtering="firewall")
    wanted = (HYPERVISOR, FIREWALL, IMAGE, newer, VOLUME, DOMAIN)
    older = (HYPERVISOR, IMAGE, NETWORK, VOLUME, DOMAIN)
    recorded = {resource.id: Recorded(resource, {}) for resource in older}
    observed = {resource.id: Observation(Presence.OURS) for resource in older}
    plan = diff("demo", wanted, recorded, observed)
    assert [(change.action, change.resource.id, change.reason) for change in plan.changes] == [
        (Action.CREATE, FIREWALL.id, "not present"),
        (Action.REPLACE, NETWORK.id, "filtering libvirt -> firewall"),
        (Action.REPLACE, DOMAIN.id, f"{NETWORK.id} is made anew"),
    ]
