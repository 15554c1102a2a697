from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from emulator.apply.executor import Executor
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.journal import Journal
from emulator.apply.state import StateStore
from emulator.core.errors import HyperscalerError, HypervisorError, InterruptedRunError, StateError
from emulator.core.progress import Event, SilentReporter, Status
from emulator.core.stop import StopFlag
from emulator.plan.model import Action, Change, Observation, Plan, Recorded
from emulator.plan.resources import Domain, Network, Resource, Volume
from tests.support.waiting import PATIENCE


def volume(name: str, *needs: str) -> Volume:
    return Volume(name=name, needs=tuple(f"volume/{need}" for need in needs), path="", image="", size_gib=1)


class Recorder:
    """A handler that writes down what it was asked, and fails where it is told to."""

    def __init__(self, failing: str = "", on_ensure: Callable[[str], object] | None = None) -> None:
        self.calls: list[str] = []
        self.failing = failing
        self.on_ensure = on_ensure or (lambda name: None)
        self.lock = threading.Lock()

    def _note(self, verb: str, resource: Resource) -> None:
        with self.lock:
            self.calls.append(f"{verb} {resource.name}")
        if resource.name == self.failing:
            raise HypervisorError("refused")

    def observe(self, resource: Resource, record: Recorded | None) -> Observation:
        raise AssertionError("an executor looks at nothing")

    def find(self, lab: str) -> Sequence[Resource]:
        raise AssertionError("an executor looks at nothing")

    def ensure(self, resource: Resource, previous: Resource | None, context: ApplyContext) -> Handle:
        self._note("ensure", resource)
        self.on_ensure(resource.name)
        return {"seen": sorted(key for key in resource.needs if context.handle(key))}

    def delete(self, resource: Resource, handle: Handle, context: ApplyContext) -> None:
        self._note("delete", resource)


def run(tmp_path: Path, plan: Plan, handler: Recorder, *, stop: StopFlag | None = None, workers: int = 4) -> StateStore:
    store = StateStore(Journal(tmp_path / "j"), boot_id="b")
    executor = Executor({"volume": handler}, store, SilentReporter(), stop=stop, workers=workers)
    executor.apply(plan)
    return store


def plan(*changes: Change) -> Plan:
    return Plan("demo", changes)


def create(name: str, *needs: str) -> Change:
    return Change(Action.CREATE, volume(name, *needs), "not present")


def test_needs_are_made_and_recorded_first(tmp_path: Path) -> None:
    handler = Recorder()
    store = run(tmp_path, plan(create("c", "b"), create("b", "a"), create("a")), handler)
    assert handler.calls == ["ensure a", "ensure b", "ensure c"]
    assert store.handle("volume/b") == {"seen": ["volume/a"]}
    assert set(store.state.resources) == {"volume/a", "volume/b", "volume/c"}


def test_independent_steps_run_side_by_side(tmp_path: Path) -> None:
    barrier = threading.Barrier(3, timeout=PATIENCE)
    handler = Recorder(on_ensure=lambda name: barrier.wait())
    run(tmp_path, plan(create("a"), create("b"), create("c")), handler)
    assert sorted(handler.calls) == ["ensure a", "ensure b", "ensure c"]


def test_dependents_are_deleted_first(tmp_path: Path) -> None:
    handler = Recorder()
    doomed = [Change(Action.DELETE, volume(name, *needs), "") for name, needs in (("a", ()), ("b", ("a",)))]
    run(tmp_path, plan(*doomed), handler)
    assert handler.calls == ["delete b", "delete a"]


def test_a_replacement_is_deleted_then_made_around_its_dependents(tmp_path: Path) -> None:
    handler = Recorder()
    replaced = [
        Change(Action.REPLACE, volume(name, *needs), "", previous=volume(name, *needs))
        for name, needs in (("a", ()), ("b", ("a",)))
    ]
    run(tmp_path, plan(*replaced), handler)
    assert handler.calls == ["delete b", "delete a", "ensure a", "ensure b"]


def test_a_delete_waits_for_what_must_run_to_carry_it_out(tmp_path: Path) -> None:
    handler = Recorder()
    repaired = Change(Action.REPAIR, volume("hypervisor"), "does not run")
    gone = Change(Action.DELETE, volume("guest", "hypervisor"), "no longer wanted")
    run(tmp_path, plan(gone, repaired), handler)
    assert handler.calls == ["ensure hypervisor", "delete guest"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Slice(Volume):
    @property
    def exclusive(self) -> tuple[str, ...]:
        return ("GPU/0",)


def test_a_shared_gpu_is_freed_before_it_is_used(tmp_path: Path) -> None:
    handler = Recorder()
    new, old = (Slice(name=name, path="", image="", size_gib=1) for name in ("new", "old"))
    run(tmp_path, plan(Change(Action.CREATE, new, ""), Change(Action.DELETE, old, "")), handler)
    assert handler.calls == ["delete old", "ensure new"]


def test_a_failure_stops_what_depends_on_it_and_is_on_record(tmp_path: Path) -> None:
    handler = Recorder(failing="b")
    with pytest.raises(HypervisorError, match="refused") as caught:
        run(tmp_path, plan(create("a"), create("b", "a"), create("c", "b")), handler)
    assert caught.value.where == "volume/b"
    assert handler.calls == ["ensure a", "ensure b"]
    state = StateStore(Journal(tmp_path / "j"), boot_id="b").state
    assert state.resources["volume/a"].open_action is None
    assert state.resources["volume/b"].open_action == "create"
    assert "volume/c" not in state.resources


def test_a_stop_lets_the_present_step_end(tmp_path: Path) -> None:
    stop = StopFlag()
    handler = Recorder(on_ensure=lambda name: stop.set())
    with pytest.raises(InterruptedRunError, match="1 steps still to do"):
        run(tmp_path, plan(create("a"), create("b", "a")), handler, stop=stop)
    state = StateStore(Journal(tmp_path / "j"), boot_id="b").state
    assert state.resources["volume/a"].open_action is None


def test_a_stop_holds_back_what_nobody_works_on_yet(tmp_path: Path) -> None:
    stop = StopFlag()
    begun: list[bool] = []

    def work(_name: str) -> None:
        begun.append(stop.is_set())
        if len(begun) == 2:
            stop.set()

    with pytest.raises(InterruptedRunError, match="steps still to do"):
        run(tmp_path, plan(*(create(f"v{n}") for n in range(40))), Recorder(on_ensure=work), stop=stop, workers=2)
    assert len(begun) < 6, "two were under way, and each may have given way to another before it was noticed"


def node(name: str, cluster: str, *needs: str) -> Domain:
    return Domain(
        name=name,
        needs=(f"network/{cluster}", *needs),
        uuid="",
        node=name,
        vcpus=1,
        memory_mib=1024,
        mac="",
        ip="",
        network=f"network/{cluster}",
        volume=f"volume/{name}",
        console_log="",
        accelerated=False,
    )


def network(name: str) -> Network:
    return Network(name=name, uuid="", bridge="", subnet="", gateway="", dns_domain="", hosts=(), nat=False)


class Grouped(Volume):
    group = "gpu"


def two_clusters() -> Plan:
    """A node of each cluster; `key` serves both, `slice` is part of what nodes wait for as a group."""
    gpu = Grouped(name="slice", path="", image="", size_gib=1)
    resources: list[Resource] = [volume("key"), gpu]
    for cluster in ("hpc", "cloud"):
        name = f"{cluster}-1"
        resources += [network(cluster), volume(name, "key"), node(name, cluster, f"volume/{name}")]
    return plan(*(Change(Action.CREATE, resource, "") for resource in resources))


@dataclasses.dataclass
class Outcome:
    """What came of a plan for two clusters: those that were told of as ready, in their order, and what is on record."""

    error: HyperscalerError | None
    ready: list[str]
    made: set[str]


def run_two_clusters(
    tmp_path: Path,
    handler: Recorder,
    wanted: Plan | None = None,
    *,
    ready: Callable[[str], object] = lambda _cluster: None,
    stop: StopFlag | None = None,
    workers: int = 1,
) -> Outcome:
    store = StateStore(Journal(tmp_path / "j"), boot_id="b")
    handlers = dict.fromkeys(("volume", "network", "domain"), handler)
    told: list[str] = []

    def take(cluster: str) -> None:
        told.append(cluster)
        ready(cluster)

    executor = Executor(handlers, store, SilentReporter(), workers=workers, stop=stop)
    error = executor.run(two_clusters() if wanted is None else wanted, ("hpc", "cloud"), take)
    return Outcome(error, told, {name for name, entry in store.state.resources.items() if entry.open_action is None})


def test_what_failed_for_one_cluster_is_no_matter_to_the_other(tmp_path: Path) -> None:
    outcome = run_two_clusters(tmp_path, Recorder(failing="cloud"))
    assert isinstance(outcome.error, HypervisorError)
    assert outcome.error.where == "network/cloud"
    assert outcome.ready == ["hpc"]
    assert {"network/hpc", "volume/hpc-1", "domain/hpc-1"} <= outcome.made
    assert "domain/cloud-1" not in outcome.made


@pytest.mark.parametrize("shared", ["key", "slice"])
def test_what_serves_both_clusters_stops_both(tmp_path: Path, shared: str) -> None:
    outcome = run_two_clusters(tmp_path, Recorder(failing=shared))
    assert outcome.error is not None
    assert outcome.ready == []
    assert not {"domain/hpc-1", "domain/cloud-1"} & outcome.made


def test_without_a_failure_both_clusters_are_ready(tmp_path: Path) -> None:
    outcome = run_two_clusters(tmp_path, Recorder())
    assert outcome.error is None
    assert sorted(outcome.ready) == ["cloud", "hpc"]
    assert {"domain/hpc-1", "domain/cloud-1"} <= outcome.made


def test_a_cluster_is_ready_while_the_image_of_the_other_is_built(tmp_path: Path) -> None:
    told = threading.Event()

    def build(name: str) -> None:
        if name == "cloud-1":  # the volume, or the domain after it
            assert told.wait(PATIENCE), "the other cluster waits for this"

    def note(cluster: str) -> None:
        assert cluster == "cloud" or "ensure cloud-1" in handler.calls
        told.set()

    handler = Recorder(on_ensure=build)
    outcome = run_two_clusters(tmp_path, handler, ready=note, workers=4)
    assert (outcome.error, outcome.ready) == (None, ["hpc", "cloud"])


def test_no_cluster_is_ready_before_what_serves_none_in_particular(tmp_path: Path) -> None:
    """Keys and services have no node that needs them, but playbooks do."""
    authority = Change(Action.CREATE, volume("authority"), "")
    handler = Recorder()

    def note(_cluster: str) -> None:
        assert "ensure authority" in handler.calls

    wanted = two_clusters()
    wanted = plan(*wanted.changes, authority)
    outcome = run_two_clusters(tmp_path, handler, wanted, ready=note)
    assert sorted(outcome.ready) == ["cloud", "hpc"]


@pytest.mark.parametrize("first", ["cloud", "authority"])
def test_what_every_cluster_needs_is_made_after_a_failure_of_one(tmp_path: Path, first: str) -> None:
    """Else the cluster that is not affected would be told of as ready without it, or not at all."""
    authority = Change(Action.CREATE, volume("authority"), "")
    broken = [change for change in two_clusters().changes if change.resource.id == "network/cloud"]
    others = [change for change in two_clusters().changes if change.resource.id != "network/cloud"]
    order = [*broken, authority] if first == "cloud" else [authority, *broken]
    outcome = run_two_clusters(tmp_path, Recorder(failing="cloud"), plan(*order, *others))
    assert outcome.ready == ["hpc"]
    assert "volume/authority" in outcome.made


def test_a_failure_of_what_serves_none_in_particular_leaves_no_cluster_ready(tmp_path: Path) -> None:
    wanted = plan(Change(Action.CREATE, volume("authority"), ""), *two_clusters().changes)
    outcome = run_two_clusters(tmp_path, Recorder(failing="authority"), wanted)
    assert outcome.error is not None
    assert outcome.ready == []


def test_with_nothing_to_do_every_cluster_is_ready_at_once(tmp_path: Path) -> None:
    assert run_two_clusters(tmp_path, Recorder(), plan()).ready == ["hpc", "cloud"]


def test_a_cluster_of_which_nothing_changes_waits_for_no_other(tmp_path: Path) -> None:
    handler, seen = Recorder(), list[list[str]]()
    changes = [change for change in two_clusters().changes if "cloud" in change.resource.name]
    outcome = run_two_clusters(
        tmp_path, handler, plan(*changes), ready=lambda cluster: seen.append([cluster, *handler.calls])
    )
    assert seen[0] == ["hpc"], "before the first step"
    assert outcome.ready == ["hpc", "cloud"]


def test_after_a_stop_a_cluster_that_lacks_something_is_not_ready(tmp_path: Path) -> None:
    stop = StopFlag()

    def build(name: str) -> None:
        if name == "cloud":
            stop.set()

    outcome = run_two_clusters(tmp_path, Recorder(on_ensure=build), stop=stop)
    assert isinstance(outcome.error, InterruptedRunError)
    assert "cloud" not in outcome.ready
    assert ("hpc" in outcome.ready) == ("domain/hpc-1" in outcome.made)


def test_an_effect_says_which_cluster_it_is_for(tmp_path: Path) -> None:
    listener = Listener()
    store = StateStore(Journal(tmp_path / "j"), boot_id="b")
    Executor(dict.fromkeys(("volume", "network", "domain"), Recorder()), store, listener).run(two_clusters())
    shown = {event.subject: event.cluster for event in listener.events}
    assert shown["domain/hpc-1"] == "Slurm" and shown["network/cloud"] == "Kubernetes"
    assert shown["volume/key"] == shown["volume/slice"] == "", "both need it"


class Listener(SilentReporter):
    def __init__(self) -> None:
        self.events: list[Event] = []
        self.warnings: list[str] = []

    def event(self, event: Event) -> None:
        self.events.append(event)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_a_failure_that_cannot_be_recorded_is_reported_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise StateError("the journal cannot be written: No space left on device")

    monkeypatch.setattr(StateStore, "fail", full)
    store, listener = StateStore(Journal(tmp_path / "j"), boot_id="b"), Listener()
    with pytest.raises(HypervisorError, match="refused"):
        Executor({"volume": Recorder(failing="a")}, store, listener).apply(plan(create("a")))
    assert [(event.status, event.message) for event in listener.events][-1] == (Status.FAILED, "refused")
    assert listener.warnings == [
        "volume/a: its failure could not be recorded: the journal cannot be written: No space left on device"
    ]
    assert store.state.resources["volume/a"].open_action
