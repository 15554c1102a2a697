"""Putting a lab to rest and waking it loses nothing, wherever the command was stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from emulator.core.errors import HyperscalerError
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.lab.snapshots.manifest import Verb
from emulator.lab.snapshots.parked import parked
from emulator.operations.snapshots.rest import resume_lab, start_lab, stop_lab, suspend_lab
from tests.crash.test_snapshot_stops import assert_no_disk_lost, records_hooked
from tests.support.branches import ENDED, TOLD, meet_faults
from tests.support.rewinding import NODES, Rewound
from tests.support.simulated_world import LAB, SimulatedHost, Snapshot
from tests.support.stop_points import find_stops, in_sequence, one_documented

NOW = "now"


@dataclass
class Bench:
    """The lab as it runs, and as it is suspended."""

    lab: Rewound
    running: Snapshot
    suspended: Snapshot

    @property
    def host(self) -> SimulatedHost:
        return self.lab.host


def suspend(lab: Rewound) -> None:
    suspend_lab(lab.host.environment(), LAB, SilentReporter(), StopFlag())


def resume(lab: Rewound) -> None:
    resume_lab(lab.host.environment(), LAB, SilentReporter(), StopFlag())


def stop(lab: Rewound) -> None:
    stop_lab(lab.host.environment(), LAB, SilentReporter(), StopFlag(), confirm=lambda: True)


def wake(lab: Rewound) -> None:
    """As a person does who reads what `status` says."""
    rest = parked(lab.host.home.lab(LAB))
    if rest is None:
        try:
            lab.provision()
        except HyperscalerError as error:  # what was interrupted has come to an end, and the lab is at rest
            assert "the lab is suspended" in error.what, error
            resume(lab)
    elif rest.verb is Verb.SUSPEND:
        resume(lab)
    else:
        start_lab(lab.host.environment(), LAB, SilentReporter(), StopFlag())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with in_sequence():
        host = SimulatedHost(tmp_path_factory.mktemp("rest") / "host")
        lab = Rewound(host)
        lab.remember(NOW)
        with records_hooked(host):
            running = host.save()
            suspend(lab)
            yield Bench(lab, running, host.save())
        host.close()


COMMANDS: dict[str, tuple[Callable[[Rewound], None], set[str]]] = {
    "suspend": (suspend, {NOW}),
    "resume": (resume, {NOW}),
    "stop": (stop, {NOW, ""}),
}
"""By name: what is stopped, and what a guest may remember afterwards."""


def begin(bench: Bench, command: str) -> None:
    bench.host.restore(bench.suspended if command == "resume" else bench.running)


def assert_wakes(bench: Bench, machine: Snapshot, allowed: set[str], where: str) -> None:
    bench.host.restore(machine)
    before = bench.lab.disks()
    wake(bench.lab)
    bench.lab.provision()
    bench.lab.assert_well(where)
    assert {bench.lab.memories()[node].removeprefix(f"{node} ") for node in NODES} <= allowed, where
    assert_no_disk_lost(before, bench.lab.disks(), where)
    assert not bench.lab.store.root.exists(), where


@pytest.mark.parametrize("command", COMMANDS)
def test_a_crash_anywhere_loses_nothing(bench: Bench, command: str) -> None:
    act, allowed = COMMANDS[command]
    begin(bench, command)
    stops = find_stops(bench.host, lambda: act(bench.lab))
    for key, machine in stops.states.items():
        assert_wakes(bench, machine, allowed, stops.where(key))
    assert len(stops.states) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_a_call_that_fails_is_told_and_loses_nothing(bench: Bench, command: str) -> None:
    act, allowed = COMMANDS[command]
    begin(bench, command)
    stops = find_stops(bench.host, lambda: act(bench.lab))

    begin(bench, command)
    met = meet_faults(bench.host, lambda: act(bench.lab), stops, one_documented)
    assert {end.how for end in met.ends} <= {ENDED, TOLD}, [end for end in met.ends if end.how not in (ENDED, TOLD)]
    for key, machine in met.machines.items():
        assert_wakes(bench, machine, allowed, key)


@pytest.mark.parametrize("command", COMMANDS)
def test_after_a_reboot_half_way_the_lab_wakes_with_its_disks(
    bench: Bench, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a lab that was suspended wholly had in memory is still there."""
    act, _ = COMMANDS[command]
    begin(bench, command)
    stops = find_stops(bench.host, lambda: act(bench.lab))
    for module in ("create", "restore", "park"):
        monkeypatch.setattr(f"emulator.lab.snapshots.{module}.read_boot_id", lambda: "after the reboot")
    for key, machine in stops.states.items():
        bench.host.restore(machine)
        bench.host.reboot()
        rest = parked(bench.host.home.lab(LAB))
        allowed = {NOW} if rest is not None and rest.verb is Verb.SUSPEND else {NOW, ""}
        assert_wakes(bench, bench.host.save(), allowed, stops.where(key))
