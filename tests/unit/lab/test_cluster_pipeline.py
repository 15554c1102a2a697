"""Two clusters in one lab: the failure of one leaves the other usable, and the message says how each is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from emulator.core.errors import ConfigureError, HyperscalerError, InterruptedRunError, StateError, VerifyError
from emulator.core.progress import Event, SilentReporter
from emulator.core.stop import StopFlag
from emulator.guests.verify.report import CheckResult
from emulator.lab.cluster_pipeline import CONFIGURE_FACT, VERIFY_FACT
from emulator.lab.lab_files import LoadedLab
from emulator.labfile.model import ClusterKind
from tests.support import simulated_world
from tests.support.simulated_world import SimulatedHost
from tests.support.waiting import PATIENCE

BOTH = """\
version: "1.0"
metadata: {name: demo}
timeouts: {boot: 10}
clusters:
  hpc:
    controller: {cpu_cores: 1, memory_gb: 1, disk_gb: 4}
    compute_nodes: {count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 4, gpu_enabled: false}
  cloud:
    control_plane: {cpu_cores: 2, memory_gb: 3, disk_gb: 10}
    worker_nodes:
      cpu_workers: {count: 1, cpu_cores: 1, memory_gb: 2, disk_gb: 10}
hypervisor: {uri: embedded}
"""
CLOUD = {"cloud-control-plane", "cloud-cpu-worker-1"}
HPC = {"hpc-controller", "hpc-compute-1"}

Broken = Callable[[pytest.MonkeyPatch], type[HyperscalerError]]


def image(patch: pytest.MonkeyPatch) -> type[HyperscalerError]:
    whole = simulated_world.SimulatedImages.build

    def build(self: Any, name: str, **options: Any) -> Any:
        if name.startswith("cloud-base"):
            raise StateError("the compiler ran out of memory")
        return whole(self, name, **options)

    patch.setattr(simulated_world.SimulatedImages, "build", build)
    return StateError


def configure(patch: pytest.MonkeyPatch) -> type[HyperscalerError]:
    whole = simulated_world.SimulatedGuests.configure

    def broken(self: Any, spec: Any, kind: ClusterKind, *rest: Any) -> Any:
        if kind is ClusterKind.CLOUD:
            raise ConfigureError("task 'Join the cluster' failed")
        return whole(self, spec, kind, *rest)

    patch.setattr(simulated_world.SimulatedGuests, "configure", broken)
    return ConfigureError


def disk_full(patch: pytest.MonkeyPatch) -> type[HyperscalerError]:
    raising(patch, OSError(28, "No space left on device", "/labs/demo/known_hosts"))
    return HyperscalerError


def fault(patch: pytest.MonkeyPatch) -> type[HyperscalerError]:
    raising(patch, KeyError("pods"))
    return HyperscalerError


def raising(patch: pytest.MonkeyPatch, error: Exception) -> None:
    whole = simulated_world.SimulatedGuests.configure

    def broken(self: Any, spec: Any, kind: ClusterKind, *rest: Any) -> Any:
        if kind is ClusterKind.CLOUD:
            raise error
        return whole(self, spec, kind, *rest)

    patch.setattr(simulated_world.SimulatedGuests, "configure", broken)


def verify(patch: pytest.MonkeyPatch) -> type[HyperscalerError]:
    whole = simulated_world.SimulatedGuests.verify

    def broken(self: Any, spec: Any, kind: ClusterKind, *rest: Any) -> Any:
        if kind is ClusterKind.CLOUD:
            return (CheckResult("pods", False, "none runs", 0.0),)
        return whole(self, spec, kind, *rest)

    patch.setattr(simulated_world.SimulatedGuests, "verify", broken)
    return VerifyError


def lab(host: SimulatedHost) -> LoadedLab:
    return host.lab_file(BOTH)


@pytest.mark.parametrize("broken", [image, configure, verify, disk_full, fault])
def test_the_other_cluster_is_brought_up_and_told_of(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, broken: Broken
) -> None:
    with monkeypatch.context() as patch:
        error = broken(patch)
        with pytest.raises(error, match=r"the Slurm cluster is not affected: all of its 2 checks passed") as caught:
            host.provision(lab(host))
    clusters = caught.value.details["clusters"]
    assert isinstance(clusters, dict) and clusters["hpc"] == "done"
    facts = host.state().facts
    assert facts.get(VERIFY_FACT) != "done"
    assert facts.get(CONFIGURE_FACT) == ("done" if broken is verify else "begun")
    nodes = {name.removeprefix("domain/") for name in host.state().resources if name.startswith("domain/")}
    assert nodes >= HPC

    done = host.provision(lab(host))
    assert {check.name for check in done.checks} == HPC | CLOUD
    assert host.state().facts[VERIFY_FACT] == "done"


def test_a_failure_of_both_clusters_tells_of_both(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Any, spec: Any, kind: ClusterKind, *rest: Any) -> Any:
        raise ConfigureError(f"{kind.value} is broken")

    monkeypatch.setattr(simulated_world.SimulatedGuests, "configure", broken)
    with pytest.raises(ConfigureError) as caught:
        host.provision(lab(host))
    assert caught.value.what.splitlines() == [
        "hpc is broken",
        "    the Kubernetes cluster failed, too: cloud is broken",
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(28, "No space left on device", "/labs/x"), "/labs/x: No space left on device"),
        (KeyError("pods"), "this is a fault of hyperscaler itself: KeyError: 'pods'"),
    ],
)
def test_an_error_that_nobody_expected_is_told_and_its_traceback_logged(
    host: SimulatedHost,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    told: str,
) -> None:
    raising(monkeypatch, error)
    with pytest.raises(HyperscalerError) as caught:
        host.provision(lab(host))
    assert str(caught.value).startswith(told)
    assert caught.value.__cause__ is error
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert "Kubernetes" in record.getMessage()


# ---------------------------------------------------------------- one cluster is at work while the other is still made
class SlowImage:
    """The build of the Kubernetes image goes on until it is let go; then it ends well, or with `error`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: HyperscalerError | None = None) -> None:
        self.building, self.go_on = threading.Event(), threading.Event()
        whole = simulated_world.SimulatedImages.build

        def build(images: Any, name: str, **options: Any) -> Any:
            if name.startswith("cloud-base"):
                self.building.set()
                assert self.go_on.wait(PATIENCE), "nothing happens beside the build"
                if error is not None:
                    raise error
            return whole(images, name, **options)

        monkeypatch.setattr(simulated_world.SimulatedImages, "build", build)


class Watching(SilentReporter):
    """Calls `act` at the first event for which `when` holds; `seen` has all of them."""

    def __init__(self, when: Callable[[Event], bool], act: Callable[[], object]) -> None:
        self.seen: list[Event] = []
        self._when, self._act = when, act
        self._lock = threading.Lock()

    def event(self, event: Event) -> None:
        with self._lock:
            first = self._when(event) and not any(self._when(each) for each in self.seen)
            self.seen.append(event)
        if first:
            self._act()


def verified(event: Event) -> bool:
    return (event.phase, event.subject, event.cluster, event.message) == ("verify", "all checks", "Slurm", "2 passed")


def booted(event: Event) -> bool:
    return event.phase == "boot" and event.cluster == "Slurm" and event.message == "ssh answers"


def probed(event: Event) -> bool:
    return event.phase == "verify" and event.cluster == "Slurm"


def test_slurm_is_proved_while_the_image_of_kubernetes_is_built(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = SlowImage(monkeypatch)
    facts: list[dict[str, str]] = []

    def proved() -> None:
        assert image.building.wait(PATIENCE) and not image.go_on.is_set()
        facts.append(dict(host.state().facts))
        image.go_on.set()

    reporter = Watching(verified, proved)
    done = host.provision(lab(host), reporter=reporter)
    assert {check.name for check in done.checks} == HPC | CLOUD
    assert facts[0][CONFIGURE_FACT] == "begun" and VERIFY_FACT not in facts[0], "of a lab that is half there"
    assert (host.state().facts[CONFIGURE_FACT], host.state().facts[VERIFY_FACT]) == ("done", "done")
    names = [event.subject for event in reporter.seen if event.phase == "boot"]
    assert set(names[: 2 * len(HPC)]) == HPC, "no node of Kubernetes was waited for before it was there"
    assert host.plan(lab(host)).is_empty


def test_an_image_that_fails_late_leaves_slurm_proved_and_says_so(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        image = SlowImage(patch, StateError("the compiler ran out of memory"))
        with pytest.raises(StateError, match="the compiler ran out of memory") as caught:
            host.provision(lab(host), reporter=Watching(verified, image.go_on.set))
    assert "the Slurm cluster is not affected: all of its 2 checks passed" in caught.value.what
    assert caught.value.details["clusters"] == {"hpc": "done"}
    assert VERIFY_FACT not in host.state().facts, "no check has failed, and the lab as a whole is not proved"
    assert not [name for name in host.state().resources if name.startswith("domain/cloud")]
    again = host.provision(lab(host))
    assert {check.name for check in again.checks} == HPC | CLOUD
    assert not any(again.changed[name] for name in HPC), "nothing of Slurm was left to do"


def test_a_fault_of_the_program_in_one_half_lets_the_other_come_to_its_end(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that no step may end with goes through the executor; the other cluster is waited for."""
    image, ended = SlowImage(monkeypatch), threading.Event()
    whole = simulated_world.SimulatedGuests.verify

    def verify(self: Any, spec: Any, kind: ClusterKind, *rest: Any) -> Any:
        image.go_on.set()
        found = whole(self, spec, kind, *rest)
        ended.set()
        return found

    def build(_images: Any, name: str, **_options: Any) -> Any:
        assert image.go_on.wait(PATIENCE)
        raise KeyError(name)

    monkeypatch.setattr(simulated_world.SimulatedGuests, "verify", verify)
    hpc = simulated_world.SimulatedImages.build
    monkeypatch.setattr(
        simulated_world.SimulatedImages,
        "build",
        lambda images, name, **options: (build if name.startswith("cloud") else hpc)(images, name, **options),
    )
    with pytest.raises(KeyError):
        host.provision(lab(host))
    assert ended.is_set()


@pytest.mark.parametrize(
    ("when", "told"),
    [
        pytest.param(booted, "the Slurm cluster was stopped, too: stopped on request", id="while-slurm-boots"),
        pytest.param(probed, "the Slurm cluster is not affected: all of its 2 checks passed", id="while-it-is-probed"),
        pytest.param(verified, "the Slurm cluster is not affected: all of its 2 checks passed", id="when-it-is-proved"),
    ],
)
def test_a_stop_while_the_image_is_built_ends_both_halves_cleanly(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch, when: Callable[[Event], bool], told: str
) -> None:
    stop = StopFlag()
    with monkeypatch.context() as patch:
        image = SlowImage(patch)

        def ask() -> None:
            stop.set()
            image.go_on.set()

        with pytest.raises(InterruptedRunError, match="stopped on request with") as caught:
            host.provision(lab(host), stop=stop, reporter=Watching(when, ask))
    assert told in caught.value.what
    state = host.state()
    assert VERIFY_FACT not in state.facts
    assert not [key for key, record in state.resources.items() if record.open_action], "what was begun was finished"
    assert not [key for key in state.resources if key.startswith("domain/cloud")], "and nothing more begun"
    done = host.provision(lab(host))
    assert {check.name for check in done.checks} == HPC | CLOUD
    assert host.plan(lab(host)).is_empty


def test_a_stop_before_the_probes_leaves_them_out(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = StopFlag()
    whole = simulated_world.SimulatedGuests.configure

    def last_task(self: Any, spec: Any, kind: ClusterKind, *rest: Any) -> Any:
        done = whole(self, spec, kind, *rest)
        stop.set()
        return done

    monkeypatch.setattr(simulated_world.SimulatedGuests, "configure", last_task)
    with pytest.raises(InterruptedRunError, match="stopped on request before it was"):
        host.provision(lab(host), stop=stop)
    assert VERIFY_FACT not in host.state().facts


def test_a_stop_while_slurm_is_configured_and_the_image_is_built(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, image = StopFlag(), SlowImage(monkeypatch)
    whole = simulated_world.SimulatedGuests.configure

    def configure(self: Any, spec: Any, kind: ClusterKind, *rest: Any) -> Any:
        stop.set()
        image.go_on.set()
        return whole(self, spec, kind, *rest)

    monkeypatch.setattr(simulated_world.SimulatedGuests, "configure", configure)
    with pytest.raises(InterruptedRunError, match="stopped on request with") as caught:
        host.provision(lab(host), stop=stop)
    told = "the Slurm cluster was stopped, too: stopped on request before it was verified"
    assert caught.value.what.splitlines()[1:] == [f"    {told}"]
    assert host.state().facts[CONFIGURE_FACT] == "begun"
    assert not [key for key, record in host.state().resources.items() if record.open_action]


def test_a_map_of_devices_that_cannot_be_written_hides_no_cluster(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise StateError("cannot be written: No space left on device")

    monkeypatch.setattr("emulator.lab.apply_plan.write_mdev_map", full)
    with pytest.raises(StateError, match="No space left") as caught:
        host.provision(lab(host))
    assert caught.value.details["clusters"] == {"hpc": "done", "cloud": "done"}
