"""Upgrade: what it refuses before anything is changed, its order, and that it goes on where it was ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from emulator.core.errors import ConfigError, ConflictError, InterruptedRunError, StateError, UsageError
from emulator.core.ports import DomainState
from emulator.core.progress import Event, SilentReporter
from emulator.core.stop import StopFlag
from emulator.lab.lab_files import LoadedLab, load_recorded_lab
from emulator.lab.open_journal import open_record
from emulator.operations.status import lab_status
from emulator.operations.upgrade import KEY, Request, Upgraded, upgrade
from tests.support import kubernetes_cluster
from tests.support.kubernetes_cluster import HEAD, Cluster, found
from tests.support.simulated_world import LAB, SimulatedHost, lab_text

FIRST, SECOND = "cloud-cpu-worker-1", "cloud-cpu-worker-2"
NODES = (HEAD, FIRST, SECOND)
CLOUD = """\
version: "1.0"
metadata: {{name: demo}}
timeouts: {{boot: 10}}
clusters:
  cloud:
    control_plane: {{cpu_cores: 2, memory_gb: {memory}, disk_gb: 10}}
    worker_nodes:
      cpu_workers: {{count: 2, cpu_cores: 1, memory_gb: 2, disk_gb: 10}}
    kubernetes_config:
      source: modules
{version}
hypervisor: {{uri: embedded}}
"""
ORDER = [
    *(f"stage {name}" for name in NODES),
    f"control-plane {HEAD}",
    f"drain {FIRST}",
    f"worker {FIRST}",
    f"uncordon {FIRST}",
    f"drain {SECOND}",
    f"worker {SECOND}",
    f"uncordon {SECOND}",
    *(f"forget {name}" for name in NODES),
]


def text(version: str = "", memory: int = 3) -> str:
    return CLOUD.format(version=f'      version: "{version}"' if version else "      cni: bridge", memory=memory)


def lab(host: SimulatedHost, version: str = "", memory: int = 3) -> LoadedLab:
    return host.lab_file(text(version, memory))


def standing(host: SimulatedHost, versions: Mapping[str, str] | None = None, wish: str = "1.36") -> Cluster:
    host.provision(lab(host, wish))
    return found(host.cluster, versions or dict.fromkeys(NODES, "1.36.5"))


def go(host: SimulatedHost, to: str = "1.37", wish: str | None = "1.37", **options: Any) -> Upgraded:
    request = Request(to, lab(host, wish) if wish is not None else None, **options)
    return upgrade(host.environment(), LAB, request, SilentReporter(), StopFlag())


def now(host: SimulatedHost) -> Cluster:
    cluster = Cluster.read(host.cluster)
    assert cluster is not None
    return cluster


def test_the_control_plane_goes_first_then_one_drained_worker_after_the_other(host: SimulatedHost) -> None:
    standing(host)
    done = go(host)
    assert now(host).steps == ORDER
    assert set(now(host).versions().values()) == {"1.37.2"}
    assert (done.version, set(done.before.values())) == ("1.37.2", {"1.36.5"})
    assert set(done.changed) == set(NODES)
    assert host.state().facts["kubernetes/version"] == "1.37.2"
    assert host.state().facts["phase/verify"] == "done"
    kubernetes = load_recorded_lab(host.home, LAB).spec.kubernetes
    assert kubernetes is not None and kubernetes.version == "1.37"


def test_a_second_run_changes_nothing(host: SimulatedHost) -> None:
    standing(host)
    go(host)
    before = host.save()
    done = go(host, wish=None)
    assert (done.version, done.changed) == ("1.37.2", {})
    assert host.save() == before or not differing(before, host.save())


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Files that differ, but for the host's record of commands."""
    return [name for name in {*before, *after} if before.get(name) != after.get(name) and "log" not in name]


def test_provision_afterwards_changes_nothing(host: SimulatedHost) -> None:
    standing(host)
    go(host)
    plan = host.plan(lab(host, "1.37"))
    assert plan.is_empty
    assert plan.blockers == ()


# ------------------------------------------------------------ refusals
def refused(host: SimulatedHost, error: type[Exception], match: str, **options: Any) -> Any:
    """An upgrade that is refused; nothing on the machine has changed."""
    before = host.save()
    with pytest.raises(error, match=match) as caught:
        go(host, **options)
    assert differing(before, host.save()) == []
    return caught.value


def test_the_lab_file_is_the_wish(host: SimulatedHost) -> None:
    standing(host)
    error = refused(host, ConfigError, rf"asks for Kubernetes 1\.36, not 1\.37: line 11, key {KEY}", wish="1.36")
    assert error.where.endswith(":11")
    assert error.fix == 'write `version: "1.37"` in that line, then repeat the command'
    error = refused(host, ConfigError, r"asks for Kubernetes 1\.36", wish=None)
    assert error.where == f"{host.home.lab(LAB).spec}:11"
    assert error.fix.endswith("hyperscaler upgrade demo --to 1.37 --file FILE")
    assert error.exit_code == 3


def test_a_file_without_a_version_wishes_for_any(host: SimulatedHost) -> None:
    standing(host, wish="")
    assert go(host, wish=None).version == "1.37.2"


def test_the_more_exact_of_both_versions_is_taken(host: SimulatedHost) -> None:
    standing(host)
    host.release = "1.37.1"
    assert go(host, wish="1.37.1").version == "1.37.1"
    host.release = "1.37.2"
    refused(host, ConfigError, r"asks for Kubernetes 1\.37\.1, not 1\.37\.2", to="1.37.2", wish="1.37.1")
    assert go(host, to="1.37.2", wish="1.37").version == "1.37.2", "a patch release"


@pytest.mark.parametrize("have", ["1.38.1", "1.37.3"])
def test_there_is_no_way_back(host: SimulatedHost, have: str) -> None:
    standing(host, dict.fromkeys(NODES, have))
    refused(host, UsageError, f"{HEAD} has Kubernetes {have}: there is no way back to 1", to="1.37.2", wish="1.37")


def test_no_minor_version_is_left_out(host: SimulatedHost) -> None:
    standing(host, dict.fromkeys(NODES, "1.35.4"), wish="")
    error = refused(host, UsageError, r"1\.37 would leave out 1\.36")
    assert "--to 1.36 first" in error.fix


def test_a_worker_that_was_left_behind_is_upgraded_first(host: SimulatedHost) -> None:
    standing(host, {HEAD: "1.36.5", FIRST: "1.36.5", SECOND: "1.35.4"})
    error = refused(host, ConflictError, rf"an upgrade to 1\.36 did not end: {SECOND} \(1\.35\.4\)")
    assert "--to 1.36 first" in error.fix


@pytest.mark.parametrize("to", ["1.99", "newest", "1.20", ""])
def test_a_version_that_no_source_has(host: SimulatedHost, to: str) -> None:
    standing(host)
    error = refused(host, UsageError, "is not supported from|is not a version|names no version", to=to)
    assert error.where == "--to"


def test_a_lab_without_kubernetes(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    with pytest.raises(UsageError, match="lab demo has no Kubernetes cluster"):
        upgrade(host.environment(), LAB, Request("1.37"), SilentReporter(), StopFlag())


def test_no_such_lab_and_another_labs_file(host: SimulatedHost) -> None:
    with pytest.raises(UsageError, match="there is no lab demo"):
        go(host, wish=None)
    standing(host)
    other = host.lab_file(text("1.37").replace("name: demo", "name: other"))
    with pytest.raises(UsageError, match="is the file of lab other"):
        upgrade(host.environment(), LAB, Request("1.37", other), SilentReporter(), StopFlag())


def test_other_machines_are_for_provision(host: SimulatedHost) -> None:
    standing(host)
    with pytest.raises(ConflictError, match="other machines than lab demo has"):
        upgrade(host.environment(), LAB, Request("1.37", lab(host, "1.37", memory=4)), SilentReporter(), StopFlag())
    assert now(host).steps == []


def test_a_worker_that_is_off_is_named(host: SimulatedHost) -> None:
    standing(host)
    host.hypervisor(host.home.lab(LAB), quiet=True).set_state(f"{LAB}-{SECOND}", DomainState.SHUTOFF)
    error = refused(host, ConflictError, rf"nothing was changed: {SECOND} does not answer")
    assert "provision" in error.fix


def test_a_node_that_is_none_of_the_cluster_is_named(host: SimulatedHost) -> None:
    cluster = standing(host)
    gone = cluster.members.pop(SECOND)
    cluster.write()
    refused(host, ConflictError, f"{SECOND} is no node of the cluster")
    cluster.members[SECOND] = gone
    cluster.write()


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{}",
        '{"version": 5, "repository": "a"}',
        '{"version": "1.36.5; reboot", "repository": "a"}',
        "[" * 9999,
    ],
)
def test_a_record_that_a_node_has_made_up_is_refused(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, record: str
) -> None:
    standing(host)
    whole = kubernetes_cluster.answer

    def hostile(cluster: Cluster, guest: str, command: str) -> tuple[int, str, str] | None:
        told = command.startswith("cat ") and guest == SECOND
        return (0, record, "") if told else whole(cluster, guest, command)

    monkeypatch.setattr(kubernetes_cluster, "answer", hostile)
    refused(host, StateError, f"the record of Kubernetes on {SECOND} cannot be used")


def test_a_release_with_other_names_of_images_is_refused(host: SimulatedHost) -> None:
    cluster = standing(host)
    for member in cluster.members.values():
        member.repository = "registry.example"
    cluster.write()
    error = refused(host, ConflictError, r"the cluster's images are named registry\.example/")
    assert error.where.endswith("source")


def test_who_declines_has_changed_nothing(host: SimulatedHost) -> None:
    standing(host)
    asked: list[tuple[Mapping[str, str], str]] = []

    def confirm(before: Mapping[str, str], to: str) -> bool:
        asked.append((before, to))
        return False

    before = host.save()
    assert go(host, confirm=confirm).declined
    assert asked == [(dict.fromkeys(NODES, "1.36.5"), "1.37")]
    assert differing(before, host.save()) == []


# ------------------------------------------------------------ on the way
def test_a_worker_whose_pods_stay_is_left_as_it_is_and_named(host: SimulatedHost) -> None:
    cluster = standing(host)
    cluster.members[FIRST].stuck = True
    cluster.write()
    with pytest.raises(ConflictError, match=f"{FIRST} cannot be drained") as caught:
        go(host)
    assert "then run upgrade again" in caught.value.fix
    after = now(host)
    assert after.versions() == {HEAD: "1.37.2", FIRST: "1.36.5", SECOND: "1.36.5"}
    assert not after.members[FIRST].draining, "it takes pods again"
    assert host.state().facts["kubernetes/version"] == "1.37.2", "new workers get the control plane's"
    after.members[FIRST].stuck = False
    after.write()
    go(host, wish=None)
    assert set(now(host).versions().values()) == {"1.37.2"}
    assert now(host).steps.count(f"control-plane {HEAD}") == 1


def test_pods_that_nothing_makes_again_are_ended_only_if_asked_for(host: SimulatedHost) -> None:
    standing(host)
    go(host)
    assert f"drain {FIRST} --force" not in now(host).steps
    found(host.cluster, dict.fromkeys(NODES, "1.36.5"))
    go(host, force=True)
    assert f"drain {FIRST} --force" in now(host).steps


def test_a_worker_that_another_person_cordoned_stays_so(host: SimulatedHost) -> None:
    cluster = standing(host)
    cluster.members[FIRST].cordoned = True
    cluster.write()
    go(host)
    assert now(host).members[FIRST].cordoned
    assert f"uncordon {FIRST}" not in now(host).steps
    assert now(host).members[FIRST].version == "1.37.2"


def test_a_worker_that_a_run_left_drained_takes_pods_again(host: SimulatedHost) -> None:
    cluster = standing(host, dict.fromkeys(NODES, "1.37.2"))
    cluster.members[SECOND].draining = True
    cluster.write()
    go(host)
    assert not now(host).members[SECOND].draining
    assert f"worker {FIRST}" not in now(host).steps


def test_a_stop_between_two_nodes(host: SimulatedHost) -> None:
    standing(host)
    stop = StopFlag()

    class Stopping(SilentReporter):
        def event(self, event: Event) -> None:
            if event.subject == FIRST and event.phase == "upgrade":
                stop.set()

    with pytest.raises(InterruptedRunError, match="between two nodes"):
        upgrade(host.environment(), LAB, Request("1.37", lab(host, "1.37")), Stopping(), stop)
    assert now(host).versions() == {HEAD: "1.37.2", FIRST: "1.37.2", SECOND: "1.36.5"}
    assert unfinished(host) == [
        "an upgrade to Kubernetes 1.37.2 did not end; `hyperscaler upgrade demo --to 1.37.2 --file FILE` goes on with"
        " it"
    ]
    host.provision(lab(host, "1.37"))
    assert unfinished(host), "provision leaves it as it is"
    go(host, "1.37.2", wish=None)
    assert set(now(host).versions().values()) == {"1.37.2"}
    assert unfinished(host) == []


def unfinished(host: SimulatedHost) -> list[str]:
    return [problem for problem in lab_status(host.environment(), LAB).problems if "upgrade" in problem]


def test_an_upgrade_whose_last_step_failed_is_not_over(host: SimulatedHost) -> None:
    """The nodes have the release and the cluster is proved, but images of the release before lie on them."""
    standing(host)
    go(host)
    open_record(host.home, LAB).store.fact("kubernetes/upgrade", "1.37.2")
    go(host)
    assert now(host).steps[len(ORDER) :] == [f"forget {name}" for name in NODES]
    assert unfinished(host) == []


def test_nodes_that_somebody_upgraded_by_hand_become_the_labs(host: SimulatedHost) -> None:
    standing(host, dict.fromkeys(NODES, "1.37.2"))
    assert host.state().facts.get("kubernetes/version", "") == ""
    done = go(host)
    assert now(host).steps == []
    assert done.version == "1.37.2"
    assert go(host).changed == {}
