"""A command with snapshots that was stopped anywhere loses nothing: the next one brings it to an end.

The simulated hypervisor refuses to restore a state on a disk that was written to since: it would cost the guest its
files, and no stop may lead there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest

from emulator.core.errors import HyperscalerError
from emulator.core.fs import write_private
from tests.support.branches import ENDED, TOLD, fill_disk, meet_faults
from tests.support.rewinding import NODES, Rewound
from tests.support.simulated_world import LAB, SimulatedHost, Snapshot
from tests.support.stop_points import find_stops, in_sequence, one_documented

Disks = Mapping[str, tuple[str, ...]]
THEN, NOW = "then", "now"


@dataclass
class Bench:
    """The lab with a snapshot `first`; its guests remember something else than in it."""

    lab: Rewound
    start: Snapshot

    @property
    def host(self) -> SimulatedHost:
        return self.lab.host


@contextmanager
def records_hooked(host: SimulatedHost) -> Iterator[None]:
    def hooked(path: Path, content: bytes) -> None:
        with host.hook.around(f"write {path.name}"):
            write_private(path, content)

    with patch("emulator.lab.snapshots.store.write_private", hooked):
        yield


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with in_sequence():
        host = SimulatedHost(tmp_path_factory.mktemp("snapshots") / "host")
        lab = Rewound(host)
        lab.remember(THEN)
        lab.create()
        lab.remember(NOW)
        with records_hooked(host):
            yield Bench(lab, host.save())
        host.close()


COMMANDS: dict[str, tuple[Callable[[Rewound], object], tuple[str, ...]]] = {
    "create": (lambda lab: lab.create("second"), (NOW,)),
    "create --disk-only": (lambda lab: lab.create("second", disk_only=True), (NOW, "")),
    "restore": (lambda lab: lab.restore(), (NOW, THEN)),
    "restore --disk-only": (lambda lab: lab.restore(disk_only=True), (NOW, "")),
    "delete": (lambda lab: lab.delete(), (NOW,)),
}
"""By name: what is stopped, and what the guests may remember afterwards, all of them the same."""


def assert_settled(bench: Bench, machine: Snapshot, allowed: Sequence[str], where: str) -> None:
    """By the next `provision` and by the next command with snapshots."""
    others: dict[str, Callable[[], object]] = {
        "provision": bench.lab.provision,
        "create": lambda: bench.lab.create("x"),
    }
    for name, recover in others.items():
        bench.host.restore(machine)
        before = bench.lab.disks()
        recover()
        told = f"{name} after a stop {where}"
        bench.lab.provision()
        bench.lab.assert_well(told)
        texts = {bench.lab.memories()[node].removeprefix(f"{node} ") for node in NODES}
        assert texts <= set(allowed), told
        assert len(texts) == 1 or "" in texts, f"the guests are of different moments: {told}"
        assert_no_disk_lost(before, bench.lab.disks(), told)
        for whole in bench.lab.store.names():
            bench.lab.restore(whole, disk_only=not bench.lab.store.manifest(whole).ram)
            bench.lab.assert_well(f"{told}, then back to {whole}")
        for whole in bench.lab.store.names():
            bench.lab.delete(whole)
        assert not bench.lab.store.root.exists(), f"something is left: {told}"


def assert_no_disk_lost(before: Disks, after: Disks, where: str) -> None:
    """A disk that was made anew has no layer of the one that was there."""
    for node in NODES:
        assert set(before[node]) & set(after[node]), f"the disk of {node} was lost: {where}"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_crash_anywhere_loses_nothing(bench: Bench, command: str) -> None:
    act, allowed = COMMANDS[command]
    bench.host.restore(bench.start)
    stops = find_stops(bench.host, lambda: act(bench.lab))
    for key, machine in stops.states.items():
        assert_settled(bench, machine, allowed, stops.where(key))
    assert len(stops.states) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_a_call_that_fails_is_told_and_loses_nothing(bench: Bench, command: str) -> None:
    act, allowed = COMMANDS[command]
    bench.host.restore(bench.start)
    stops = find_stops(bench.host, lambda: act(bench.lab))

    bench.host.restore(bench.start)
    met = meet_faults(bench.host, lambda: act(bench.lab), stops, one_documented)
    assert {end.how for end in met.ends} <= {ENDED, TOLD}, [end for end in met.ends if end.how not in (ENDED, TOLD)]
    for key, machine in met.machines.items():
        assert_settled(bench, machine, allowed, key)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reboot_of_the_host_half_way_loses_no_disk(
    bench: Bench, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    act, _ = COMMANDS[command]
    bench.host.restore(bench.start)
    stops = find_stops(bench.host, lambda: act(bench.lab))
    for key, machine in stops.states.items():
        bench.host.restore(machine)
        before = bench.lab.disks()
        bench.host.reboot()
        with monkeypatch.context() as later:
            for module in ("create", "restore"):
                later.setattr(f"emulator.lab.snapshots.{module}.read_boot_id", lambda: "after the reboot")
            bench.lab.provision()
            bench.lab.assert_well(stops.where(key))
            assert_no_disk_lost(before, bench.lab.disks(), stops.where(key))
            for whole in bench.lab.store.names():
                bench.lab.restore(whole, disk_only=not bench.lab.store.manifest(whole).ram)
                bench.lab.delete(whole)
        assert not bench.lab.store.root.exists(), stops.where(key)


def test_two_commands_at_once_leave_one_of_them_told(bench: Bench) -> None:
    bench.host.restore(bench.start)
    told: list[str] = []

    def meanwhile(name: str) -> None:
        if name == "save_domain" and not told:
            told.append(name)
            with pytest.raises(HyperscalerError, match="snapshot create"):
                bench.lab.restore()

    bench.host.hook.before = meanwhile
    bench.lab.create("second")
    bench.host.hook.before = lambda _name: None
    assert told and bench.lab.store.names() == ("first", "second")
    assert (bench.host.home.lab(LAB).disks).is_dir()


@pytest.mark.parametrize("command", ["create", "restore"])
def test_a_full_disk_is_told_and_loses_nothing(bench: Bench, command: str) -> None:
    """Each write in turn finds no space, and the following ones do: room was made."""
    act, allowed = COMMANDS[command]
    bench.host.restore(bench.start)
    filled, writes = fill_disk(bench.host, lambda: act(bench.lab), stays_full=False)
    assert writes > 20
    assert {end.how for end in filled.ends} <= {ENDED, TOLD}, [
        end for end in filled.ends if end.how not in (ENDED, TOLD)
    ]
    for key, machine in filled.machines.items():
        assert_settled(bench, machine, allowed, key)
