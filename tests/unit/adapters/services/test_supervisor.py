"""How a command starts the supervisor and waits for it; the supervisor's part is played by the test."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from emulator.adapters.services import supervisor as module
from emulator.adapters.services.supervisor import ProcessSupervisor
from emulator.core.errors import ServiceError
from emulator.core.ports.services import ServiceRequest, ServiceState
from emulator.core.trust.identity import ProcessIdentity
from emulator.core.trust.processes import ProcessStat
from emulator.core.waiting.watch import Clock
from emulator.supervisor.records import SupervisorFiles
from tests.support.fake_runner import Call, FakeRunner

WEB = ServiceRequest("web", "d1", "/bin/web")
OWN = ("/venv/python", "-I", "/code/__main__.py")
RUNS: Mapping[str, Any] = {"digest": "d1", "state": "running", "pid": 5, "reason": "", "failures": 0}


class Bench:
    def __init__(self, root: Path) -> None:
        self.directory = root / "supervisor"
        self.files = SupervisorFiles(self.directory)
        self.systemd = root / "systemd"
        self.says: Mapping[str, Any] = RUNS
        self.runner = FakeRunner({"/venv/python": self.start, "systemd-run": self.start})
        self.now = 0.0
        self.clock = Clock(now=lambda: self.now, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 1.0)

    def start(self, _call: Call) -> None:
        self.files.write_status(ProcessIdentity.of(os.getpid()), {"web": self.says})

    def supervisor(self) -> ProcessSupervisor:
        return ProcessSupervisor(self.directory, self.runner, OWN, systemd=self.systemd, clock=self.clock)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    return Bench(tmp_path)


def test_without_systemd_it_becomes_a_daemon(bench: Bench) -> None:
    bench.supervisor().ensure(WEB)
    assert bench.runner.calls == [(*OWN, "supervise", str(bench.directory), "--detach")]
    assert bench.files.request("web") == WEB


@pytest.mark.skipif(os.geteuid() != 0, reason="a unit of the system is root's")
def test_with_systemd_it_is_a_unit_of_its_own(bench: Bench) -> None:
    bench.systemd.mkdir()
    bench.supervisor().ensure(WEB)
    words = bench.runner.calls[0]
    assert words[:3] == ("systemd-run", "--quiet", "--collect")
    assert words[3].startswith("--unit=hyperscaler-supervisor-") and len(words[3]) == 46
    assert {"--property=Delegate=yes", "--property=Restart=on-failure", "--property=KillMode=mixed"} <= set(words)
    assert words[words.index("--") + 1 :] == (*OWN, "supervise", str(bench.directory), "--delegated")


def test_one_that_lives_is_only_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.supervisor().ensure(WEB)
    got: list[signal.Signals] = []

    def signalled(_me: ProcessIdentity, number: signal.Signals) -> bool:
        got.append(number)
        return True

    monkeypatch.setattr(ProcessIdentity, "signal", signalled)
    bench.supervisor().ensure(WEB)
    assert got == [signal.SIGHUP] and len(bench.runner.calls) == 1


def test_a_service_that_fails_is_an_error_with_the_end_of_its_log(bench: Bench) -> None:
    bench.says = {**RUNS, "state": "restarting", "pid": 0, "failures": 1, "reason": "it ended with exit code 1"}
    bench.directory.mkdir(mode=0o700)
    bench.files.log("web").write_text("starting\ncannot open \x1b[31mport\n")
    with pytest.raises(ServiceError) as caught:
        bench.supervisor().ensure(WEB)
    assert caught.value.what.splitlines() == [
        "the service web does not run: it ended with exit code 1",
        "    | starting",
        "    | cannot open \N{REPLACEMENT CHARACTER}[31mport",
    ]
    assert caught.value.where == str(bench.files.log("web"))


def test_a_supervisor_that_dies_is_an_error(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.says = {**RUNS, "state": "starting"}
    bench.clock = Clock(sleep=lambda _seconds: monkeypatch.setattr(ProcessIdentity, "lives", lambda _me: False))
    with pytest.raises(ServiceError, match="the lab's supervisor has ended unexpectedly"):
        bench.supervisor().ensure(WEB)


def test_a_service_that_does_nothing_is_given_up(bench: Bench) -> None:
    bench.says = {**RUNS, "state": "starting", "pid": 0}
    with pytest.raises(ServiceError, match=r"not say that it is ready \(after 600 s, the last 600 s of them without"):
        bench.supervisor().ensure(WEB)


def test_a_service_that_is_at_work_may_take_longer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.says = {**RUNS, "state": "starting"}

    def at_work(_pid: int) -> ProcessStat:
        if bench.now > 1500:
            bench.says = RUNS
            bench.start(Call(()))
        return ProcessStat("S", 1, 5, bench.now / 100, "1")

    monkeypatch.setattr(module, "stat_of", at_work)
    bench.supervisor().ensure(WEB)
    assert bench.now > 1500


def test_a_supervisor_that_never_appears_is_an_error(bench: Bench) -> None:
    bench.runner = FakeRunner({"/venv/python": ""})
    with pytest.raises(ServiceError, match=r"the lab's supervisor does not start \(after 120 s"):
        bench.supervisor().ensure(WEB)


def test_without_a_supervisor_what_is_removed_are_its_files(bench: Bench) -> None:
    bench.files.want(WEB)
    bench.files.log("web").write_text("hello")
    assert [info.state for info in bench.supervisor().services()] == [ServiceState.DOWN]
    bench.supervisor().remove("web")
    assert not bench.directory.exists()
    bench.supervisor().remove("web")
    assert bench.runner.calls == []
