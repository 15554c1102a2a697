"""Services as real processes: killed, flooded, left behind; and a real lab with its services."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from emulator.adapters.embedded.processes import find_processes
from emulator.core.errors import UsageError
from emulator.core.ports import DomainState
from emulator.core.ports.services import ServiceInfo, ServiceRequest, ServiceState
from emulator.core.trust.users import stopped_users
from emulator.lab.lab import Backends, open_lab
from emulator.lab.open_journal import open_record
from emulator.plan.service_resources import CONSOLE_LIMIT
from emulator.supervisor.records import SupervisorFiles
from emulator.wiring import supervisor_in
from tests.support.real_lab import Boot, RealLab, host_traces, processes_below, tiny_lab
from tests.support.tiny_guest import halting_kernel, printing_kernel

pytestmark = pytest.mark.host

PATIENCE = 600.0  # seconds; only a hang takes as long
MIB = 1 << 20


class Bench:
    """The supervisor of a lab that is nothing but its directory."""

    def __init__(self, root: Path) -> None:
        self.lab = root / "lab"
        self.lab.mkdir()
        self.files = SupervisorFiles(self.lab / "supervisor")
        self.supervisor = supervisor_in(self.files.directory)

    def script(self, name: str, text: str) -> ServiceRequest:
        """A shell script as a service; the lab's directory is in `$1`."""
        return ServiceRequest(name, text, "/bin/sh", ("-c", text, "sh", str(self.lab)))

    def info(self, name: str) -> ServiceInfo:
        return next(info for info in self.supervisor.services() if info.name == name)

    def kill_supervisor(self) -> None:
        process = self.files.supervisor()
        assert process is not None and process.signal(signal.SIGKILL) and process.ended_within(PATIENCE)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for name in made.files.names():
        made.supervisor.remove(name)
    until(lambda: processes_below(tmp_path) == [])


def until(reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


# ---------------------------------------------------------------- processes
def test_a_killed_service_comes_back_with_growing_pauses(bench: Bench) -> None:
    starts = bench.lab / "starts"
    starts.touch()  # the script runs already when it has not written yet
    bench.supervisor.ensure(bench.script("web", 'date +%s%N >> "$1/starts"; exec sleep 1000'))
    for failures in (1, 2, 3):
        until(lambda number=failures: len(starts.read_text().splitlines()) == number)  # type: ignore[misc]
        until(lambda: bench.info("web").state is ServiceState.RUNNING)
        os.kill(bench.info("web").pid, signal.SIGKILL)
        until(lambda number=failures: bench.info("web").failures == number)  # type: ignore[misc]
    until(lambda: len(starts.read_text().splitlines()) == 4)
    times = [int(line) / 1e9 for line in starts.read_text().splitlines()]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] > 0.9 and pauses[1] > 1.9 and pauses[2] > 3.9, pauses


def test_after_kill_of_the_supervisor_nothing_is_left_running_unsupervised(bench: Bench) -> None:
    """Nor what a service started in sessions of its own."""
    bench.supervisor.ensure(bench.script("web", ': > "$1/up"; setsid tail -f "$1/up" & tail -f "$1/up" & wait'))
    bench.supervisor.ensure(
        ServiceRequest(
            "console-limits",
            "d",
            "console-limits",
            (str(bench.lab), "--limit", "1000", "--kept", "10"),
            notifies=True,
        )
    )
    until(lambda: len(processes_below(bench.lab)) == 5)  # the supervisor, two services, two children of one
    bench.kill_supervisor()
    until(lambda: processes_below(bench.lab) == [])
    assert {info.state for info in bench.supervisor.services()} == {ServiceState.DOWN}
    bench.supervisor.ensure(bench.script("web", "exec sleep 1000"))
    assert bench.info("web").state is ServiceState.RUNNING


def test_a_service_that_prints_without_end_fills_no_disk_and_holds_up_nobody(bench: Bench) -> None:
    bench.supervisor.ensure(bench.script("loud", "exec yes AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"))
    log = bench.files.log("loud")
    until(lambda: log.exists() and b"bytes of this log were removed" in log.read_bytes()[:200])
    largest = 0
    for number in range(5):
        bench.supervisor.ensure(bench.script(f"quiet-{number}", "exec sleep 1000"))
        largest = max(largest, log.stat().st_size)
    assert largest <= 256 * 1024 + 64 * 1024


def test_a_lab_that_is_removed_by_hand_leaves_no_process(bench: Bench) -> None:
    bench.supervisor.ensure(bench.script("web", ': > "$1/a"; exec tail -f "$1/a"'))
    shutil.rmtree(bench.lab)
    until(lambda: processes_below(bench.lab) == [])
    bench.lab.mkdir()


def test_limits_hold(bench: Bench) -> None:
    request = bench.script("web", "ulimit -n; ulimit -v; ulimit -c; exec sleep 1000")
    bench.supervisor.ensure(ServiceRequest("web", "d", "/bin/sh", request.arguments, memory_mib=64, files=20))
    until(lambda: bench.files.log("web").exists() and bench.files.log("web").read_text().count("\n") == 3)
    assert bench.files.log("web").read_text() == "20\n65536\n0\n"


# ---------------------------------------------------------------- real labs
@pytest.fixture
def labs(tmp_path: Path) -> Iterator[Callable[..., RealLab]]:
    made: list[RealLab] = []

    def make(root: Path, text: str = "", kernel: bytes = b"") -> RealLab:
        name = f"svc{os.getpid()}"
        made.append(RealLab(root, name, text=text or tiny_lab(name), boot=Boot(kernel or halting_kernel())))
        return made[-1]

    yield make
    for lab in made:
        with contextlib.suppress(UsageError):
            lab.destroy()
        lab.close()


def services(lab: RealLab) -> dict[str, str]:
    return {info.name: info.state.value for info in supervisor_in(lab.paths.supervisor).services()}


def note(lab: RealLab, name: str) -> str:
    return next(info.note for info in supervisor_in(lab.paths.supervisor).services() if info.name == name)


def test_a_lab_keeps_its_services_and_leaves_none(tmp_path: Path, labs: Callable[..., RealLab]) -> None:
    lab = labs(tmp_path)
    before = host_traces(tmp_path, lab.namespace)
    lab.provision()
    assert services(lab) == {"console-limits": "running", "disk-reserve": "running"}
    assert lab.plan().is_empty
    process = SupervisorFiles(lab.paths.supervisor).supervisor()
    assert process is not None and process.signal(signal.SIGKILL)
    until(lambda: set(services(lab).values()) == {"down"})
    assert [(change.action.value, change.resource.kind) for change in lab.plan().changes] == [("repair", "service")] * 2
    lab.provision()
    assert set(services(lab).values()) == {"running"} and lab.plan().is_empty
    lab.destroy()
    assert host_traces(tmp_path, lab.namespace) == before


def test_a_real_guest_that_prints_without_end_is_bounded(tmp_path: Path, labs: Callable[..., RealLab]) -> None:
    lab = labs(tmp_path, kernel=printing_kernel())
    lab.provision()
    largest = 0

    def cut() -> bool:
        nonlocal largest
        logs = list(lab.paths.console.glob("*.log"))
        largest = max(largest, *(log.stat().st_size for log in logs))
        return len(logs) == 2 and "removed" in note(lab, "console-limits")

    started = time.monotonic()
    until(cut)
    print(f"first cut after {time.monotonic() - started:.1f} s, {note(lab, 'console-limits')}, largest {largest}")
    log = lab.paths.console / "hpc-compute-1.log"
    until(lambda: b"bytes of this log were removed" in log.read_bytes()[:200])
    size = log.stat().st_size
    until(lambda: log.stat().st_size > size)
    assert b"\0" not in log.read_bytes(), "QEMU goes on where the log now ends"
    assert largest < 2 * CONSOLE_LIMIT


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of a quarter of a GiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256m,mode=755", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_real_guests_that_grow_are_paused_below_the_reserve(small: Path, labs: Callable[..., RealLab]) -> None:
    text = tiny_lab(f"svc{os.getpid()}").replace("{uri: embedded}", "{uri: embedded, disk_reserve_gb: 0.0625}")
    lab = labs(small, text)
    lab.provision()
    until(lambda: note(lab, "disk-reserve") == "a reserve of 64.0 MiB is kept free")
    disk, other = lab.paths.disks / "hpc-compute-1.qcow2", small / "download"
    names = {f"{lab.name}-hpc-compute-1": DomainState.RUNNING, f"{lab.name}-hpc-controller": DomainState.RUNNING}
    assert states(lab) == names
    size = disk.stat().st_size

    def grow() -> bool:
        """As QEMU does, behind the end of what the guest may read. Only this disk grows, until it is noticed."""
        room = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
        with disk.open("ab") as file:
            file.write(b"x" * (4 * MIB if room > 60 * MIB else 4096))
        time.sleep(0.2)
        return "paused" in note(lab, "disk-reserve")

    until(grow)
    assert states(lab) == {**names, f"{lab.name}-hpc-compute-1": DomainState.PAUSED}, "the other one does not grow"
    other.write_bytes(b"")
    os.truncate(disk, size)
    until(lambda: states(lab) == names)
    until(lambda: note(lab, "disk-reserve") == "a reserve of 64.0 MiB is kept free")


def test_a_real_guest_that_grows_while_libvirt_hangs_is_stopped_by_a_signal(
    small: Path, labs: Callable[..., RealLab]
) -> None:
    text = tiny_lab(f"svh{os.getpid()}").replace("{uri: embedded}", "{uri: embedded, disk_reserve_gb: 0.0625}")
    lab = labs(small, text)
    lab.provision()
    kept = "a reserve of 64.0 MiB is kept free"
    until(lambda: note(lab, "disk-reserve") == kept)
    disk = lab.paths.disks / "hpc-compute-1.qcow2"
    size, uid = disk.stat().st_size, disk.stat().st_uid
    others = frozenset(each.stat().st_uid for each in lab.paths.disks.glob("*.qcow2")) - {uid}
    # Less than twice the reserve is free, so that the service has looked which guests there are.
    (small / "download").write_bytes(b"x" * (os.statvfs(small).f_bavail * os.statvfs(small).f_frsize - 100 * MIB))
    time.sleep(3)
    (daemon,) = [each for each in find_processes(lab.paths.hypervisor) if each.name == "libvirtd"]
    os.kill(daemon.pid, signal.SIGSTOP)
    try:

        def grow() -> bool:
            room = os.statvfs(small).f_bavail * os.statvfs(small).f_frsize
            with disk.open("ab") as file:
                file.write(b"x" * (4 * MIB if room > 60 * MIB else 4096))
            time.sleep(0.2)
            return "stopped by a signal" in note(lab, "disk-reserve")

        until(grow)
        assert stopped_users({uid, *others}) == {uid}, "the other one does not grow"
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    os.truncate(disk, size)
    (small / "download").unlink()
    until(lambda: note(lab, "disk-reserve") == kept)
    assert stopped_users({uid}) == frozenset()


def states(lab: RealLab) -> dict[str, DomainState]:
    opened = open_lab(lab.environment(), open_record(lab.home, lab.name), Backends("embedded"))
    hypervisor = opened.session.get()
    try:
        return {info.name: info.state for info in hypervisor.domains()}
    finally:
        opened.session.reset()
