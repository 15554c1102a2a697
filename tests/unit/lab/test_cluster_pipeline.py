"""Two clusters in one lab: the failure of one leaves the other usable, and the message says how each is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from emulator.core.errors import ConfigureError, HyperscalerError, StateError, VerifyError
from emulator.guests.verify.report import CheckResult
from emulator.lab.cluster_pipeline import CONFIGURE_FACT, VERIFY_FACT
from emulator.lab.lab_files import LoadedLab
from emulator.labfile.model import ClusterKind
from tests.support import simulated_world
from tests.support.simulated_world import SimulatedHost

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
