"""One suite for every supervisor: the simulated one, and the real one with real processes."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from emulator.adapters.simulated.services import SimulatedSupervisor
from emulator.core.errors import ServiceError
from emulator.core.ports.services import ServiceInfo, ServiceRequest, ServiceState, ServiceSupervisor
from emulator.supervisor.records import SupervisorFiles
from emulator.wiring import supervisor_in

SLEEPS = ServiceRequest("sleeps", "d1", "/bin/sleep", ("1000",), definition={"kind": "service"})
BROKEN = ServiceRequest("broken", "d1", "/bin/false")


@dataclass
class Bench:
    supervisor: ServiceSupervisor
    directory: Path
    end_all: Callable[[], None]

    def info(self, name: str) -> ServiceInfo | None:
        return next((info for info in self.supervisor.services() if info.name == name), None)

    def state(self, name: str) -> ServiceState | None:
        info = self.info(name)
        return info.state if info else None


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.host)])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    directory = tmp_path / "lab" / "supervisor"
    directory.parent.mkdir()
    if request.param == "simulated":
        running = tmp_path / "running"
        simulated = SimulatedSupervisor(directory, running, broken=frozenset({"/bin/false"}))

        def killed() -> None:
            for file in running.iterdir():
                file.unlink()

        yield Bench(simulated, directory, killed)
        return
    files = SupervisorFiles(directory)

    def kill() -> None:
        process = files.supervisor()
        assert process is not None and process.signal(signal.SIGKILL) and process.ended_within(60.0)

    real = supervisor_in(directory)
    try:
        yield Bench(real, directory, kill)
    finally:
        for name in files.names():
            real.remove(name)
        assert files.supervisor() is None


def test_without_services_there_is_nothing(bench: Bench) -> None:
    assert bench.supervisor.services() == ()
    bench.supervisor.remove("sleeps")
    assert not bench.directory.exists()


def test_a_service_runs_and_goes(bench: Bench) -> None:
    bench.supervisor.ensure(SLEEPS)
    info = bench.info("sleeps")
    assert info is not None and info.state is ServiceState.RUNNING and info.pid
    assert (info.digest, info.definition) == (SLEEPS.digest, SLEEPS.definition)
    bench.supervisor.ensure(SLEEPS)
    assert bench.info("sleeps") == info, "the same one"
    bench.supervisor.remove("sleeps")
    assert bench.supervisor.services() == ()
    assert not bench.directory.exists()
    bench.supervisor.remove("sleeps")


def test_one_goes_and_the_other_stays(bench: Bench) -> None:
    other = dataclasses.replace(SLEEPS, name="other")
    bench.supervisor.ensure(SLEEPS)
    bench.supervisor.ensure(other)
    bench.supervisor.remove("sleeps")
    assert [info.name for info in bench.supervisor.services()] == ["other"]
    assert bench.state("other") is ServiceState.RUNNING
    bench.supervisor.remove("other")


def test_a_changed_service_is_another_process(bench: Bench) -> None:
    bench.supervisor.ensure(SLEEPS)
    bench.supervisor.ensure(dataclasses.replace(SLEEPS, digest="d2", arguments=("2000",)))
    info = bench.info("sleeps")
    assert info is not None and (info.digest, info.state) == ("d2", ServiceState.RUNNING)
    if not isinstance(bench.supervisor, SimulatedSupervisor):
        assert Path(f"/proc/{info.pid}/cmdline").read_bytes() == b"/bin/sleep\x002000\x00"


def test_one_that_ends_at_once_is_an_error_and_stays_on_record(bench: Bench) -> None:
    bench.supervisor.ensure(SLEEPS)
    with pytest.raises(ServiceError, match="the service broken does not run: it ended with exit code 1"):
        bench.supervisor.ensure(BROKEN)
    info = bench.info("broken")
    assert info is not None and info.failures >= 1
    assert "it ended with exit code 1" in info.reason or info.state is not ServiceState.BACKOFF
    assert bench.state("sleeps") is ServiceState.RUNNING
    bench.supervisor.remove("broken")


def test_after_the_supervisors_death_all_are_down_and_come_back_together(bench: Bench) -> None:
    other = dataclasses.replace(SLEEPS, name="other")
    bench.supervisor.ensure(SLEEPS)
    bench.supervisor.ensure(other)
    bench.end_all()
    assert {info.state for info in bench.supervisor.services()} == {ServiceState.DOWN}
    assert {info.reason for info in bench.supervisor.services()} == {"its supervisor does not run"}
    bench.supervisor.ensure(SLEEPS)
    assert {info.state for info in bench.supervisor.services()} == {ServiceState.RUNNING}


def test_what_died_goes_without_a_supervisor(bench: Bench) -> None:
    bench.supervisor.ensure(SLEEPS)
    bench.end_all()
    bench.supervisor.remove("sleeps")
    assert bench.supervisor.services() == () and not bench.directory.exists()
