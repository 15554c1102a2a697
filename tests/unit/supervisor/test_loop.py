"""The supervisor's loop with processes and a clock of the test's own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from emulator.core.errors import ServiceError
from emulator.core.ports.services import ServiceInfo, ServiceRequest, ServiceState
from emulator.core.trust.identity import ProcessIdentity
from emulator.supervisor.in_place import write_in_place
from emulator.supervisor.loop import TICK, Supervisor
from emulator.supervisor.records import SupervisorFiles

ME = ProcessIdentity.of(os.getpid())


class Processes:
    """`Children` that do what the test says; `wait` lets the clock go on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.asked_to_end = False
        self.alive: dict[int, str] = {}
        self.did: list[str] = []
        self.broken: set[str] = set()
        self.starts: dict[str, str] = {}
        self._ended: dict[int, int] = {}
        self._hurried = False
        self._next = 100

    def clock(self) -> float:
        return self.now

    def start(self, request: ServiceRequest, *, log: Path, note: Path, start: str) -> int:
        self.did.append(f"start {request.name}")
        if request.program in self.broken:
            raise ServiceError("no such program")
        self._next += 1
        self.alive[self._next] = request.name
        self.starts[request.name] = start
        return self._next

    def ask(self, pid: int) -> None:
        self.did.append(f"ask {self.alive[pid]}")

    def kill(self, pid: int) -> None:
        self.did.append(f"kill {self.alive[pid]}")
        self.end(self.alive[pid], -9)

    def end(self, name: str, status: int = 1) -> None:
        pid = next(pid for pid, other in self.alive.items() if other == name)
        del self.alive[pid]
        self._ended[pid] = status

    def ended(self) -> Mapping[int, int]:
        found, self._ended = self._ended, {}
        return found

    def hurry(self) -> None:
        self._hurried = True

    def hurried(self) -> bool:
        was, self._hurried = self._hurried, False
        return was

    def wait(self, seconds: float) -> None:
        assert 0 < seconds <= TICK
        self.now += seconds


class Bench:
    def __init__(self, root: Path) -> None:
        self.files = SupervisorFiles(root / "supervisor")
        self.files.directory.mkdir(mode=0o700)
        self.processes = Processes()

    def want(self, name: str, program: str = "/bin/x", *, notifies: bool = False) -> None:
        self.files.want(ServiceRequest(name, f"{name}-digest", program, notifies=notifies))

    def supervisor(self) -> Supervisor:
        return Supervisor(self.files, self.processes, self.processes.clock, ME)

    def info(self, name: str) -> ServiceInfo:
        return next(info for info in self.files.services() if info.name == name)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def turns(supervisor: Supervisor, processes: Processes, seconds: float) -> None:
    end = processes.now + seconds
    while processes.now < end:
        supervisor.turn()
        processes.wait(supervisor._pause())


def test_what_is_wanted_runs_and_is_seen(bench: Bench) -> None:
    bench.want("a")
    bench.want("b")
    assert bench.info("a").state is ServiceState.DOWN
    assert bench.supervisor().turn()
    assert sorted(bench.processes.alive.values()) == ["a", "b"]
    assert (bench.info("a").state, bench.info("a").digest) == (ServiceState.RUNNING, "a-digest")


def test_one_that_dies_comes_back_and_the_other_is_not_touched(bench: Bench) -> None:
    bench.want("a")
    bench.want("b")
    supervisor = bench.supervisor()
    supervisor.turn()
    bench.processes.end("a", 3)
    supervisor.turn()
    assert bench.info("a").state is ServiceState.BACKOFF
    assert bench.info("a").reason == "it ended with exit code 3; it is started again after 1 s"
    turns(supervisor, bench.processes, 1.5)
    assert bench.info("a").state is ServiceState.RUNNING
    assert bench.processes.did.count("start b") == 1


def test_a_service_that_never_starts_is_tried_ever_more_rarely(bench: Bench) -> None:
    bench.processes.broken.add("/bin/none")
    bench.want("a", "/bin/none")
    supervisor = bench.supervisor()
    turns(supervisor, bench.processes, 600)
    assert 12 <= bench.processes.did.count("start a") <= 17
    assert "it cannot be started: no such program" in bench.info("a").reason


def test_a_command_makes_it_try_at_once(bench: Bench) -> None:
    bench.processes.broken.add("/bin/none")
    bench.want("a", "/bin/none")
    supervisor = bench.supervisor()
    turns(supervisor, bench.processes, 60)
    before = bench.info("a").failures
    bench.processes.hurry()
    supervisor.turn()
    assert bench.info("a").failures == before + 1


def test_one_that_notifies_is_starting_until_this_start_says_so(bench: Bench) -> None:
    bench.want("a", notifies=True)
    write_in_place(bench.files.note("a"), {"start": "an earlier one", "text": "ready"})
    supervisor = bench.supervisor()
    turns(supervisor, bench.processes, 2)
    assert (bench.info("a").state, bench.info("a").note) == (ServiceState.STARTING, "")
    write_in_place(bench.files.note("a"), {"start": bench.processes.starts["a"], "text": "ready"})
    supervisor.turn()
    assert (bench.info("a").state, bench.info("a").note) == (ServiceState.RUNNING, "ready")


def test_one_that_is_forgotten_ends_and_so_does_the_supervisor_after_the_last(bench: Bench) -> None:
    bench.want("a")
    bench.want("b")
    supervisor = bench.supervisor()
    supervisor.turn()
    bench.files.forget("a")
    supervisor.turn()
    assert bench.processes.did[-1] == "ask a"
    bench.processes.end("a", 0)
    assert supervisor.turn() and bench.files.kept() == {"b"}
    bench.files.forget("b")
    supervisor.turn()
    bench.processes.end("b", 0)
    assert not supervisor.turn()


def test_one_that_does_not_end_is_killed(bench: Bench) -> None:
    bench.want("a")
    supervisor = bench.supervisor()
    supervisor.turn()
    bench.files.forget("a")
    turns(supervisor, bench.processes, 12)
    assert "kill a" in bench.processes.did and not bench.processes.alive


def test_a_lab_that_was_removed_by_hand_leaves_nothing_running(bench: Bench) -> None:
    bench.want("a")
    supervisor = bench.supervisor()
    supervisor.turn()
    shutil.rmtree(bench.files.directory)
    supervisor.run()
    assert not bench.processes.alive
    assert not bench.files.directory.exists()


def test_another_directory_in_its_place_is_not_its_own(bench: Bench) -> None:
    bench.want("a")
    supervisor = bench.supervisor()
    supervisor.turn()
    bench.files.directory.rename(bench.files.directory.with_name("moved"))
    shutil.copytree(bench.files.directory.with_name("moved"), bench.files.directory)
    supervisor.run()
    assert not bench.processes.alive
    assert bench.info("a").state is ServiceState.DOWN, "what the copied status says is of another place"


def test_asked_to_end_it_ends_its_services_first_and_keeps_their_records(bench: Bench) -> None:
    bench.want("a")
    supervisor = bench.supervisor()
    supervisor.turn()
    bench.processes.asked_to_end = True
    supervisor.run()
    assert not bench.processes.alive and bench.files.names() == ("a",)


def test_a_damaged_record_does_not_end_what_runs(bench: Bench) -> None:
    bench.want("a")
    supervisor = bench.supervisor()
    supervisor.turn()
    record = bench.files.directory / "wanted" / "a.json"
    record.write_text("{")
    turns(supervisor, bench.processes, 5)
    assert list(bench.processes.alive.values()) == ["a"]
    assert bench.info("a").digest == "", "its digest is unknown, so that the next provision writes it anew"


def test_a_full_disk_does_not_end_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.want("a")
    supervisor = bench.supervisor()

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(SupervisorFiles, "write_status", full)
        assert supervisor.turn()
    supervisor.turn()
    assert bench.info("a").state is ServiceState.RUNNING
