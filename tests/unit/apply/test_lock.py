from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulator.apply import lock
from emulator.apply.audit import AuditLog
from emulator.apply.gpu_ownership import GpuLedger
from emulator.apply.lock import exclusive_lock, holder_of
from emulator.core.errors import ConflictError, ExitCode, InterruptedRunError, StateError
from emulator.core.locking import acquire
from emulator.core.paths import Home
from emulator.core.stop import StopFlag
from tests.support.waiting import PATIENCE

HOLD = """
import sys
from pathlib import Path
from emulator.apply.lock import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), purpose="provision demo"):
    print("held", flush=True)
    sys.stdin.read()
"""


Holder = tuple[Path, subprocess.Popen[str]]
"""The lock and the process that holds it."""


@pytest.fixture
def other_holder(tmp_path: Path) -> Iterator[Holder]:
    path = tmp_path / "locks" / "demo.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_waiting_process_learns_who_holds_it(other_holder: Holder) -> None:
    path, process = other_holder
    with pytest.raises(ConflictError) as caught, exclusive_lock(path, purpose="destroy demo"):
        pytest.fail("two holders")
    assert f"process {process.pid} on" in caught.value.what
    assert "(provision demo)" in caught.value.what
    assert caught.value.exit_code is ExitCode.CONFLICT
    assert f"process {process.pid} " in holder_of(path)


def test_a_dead_holder_does_not_block(other_holder: Holder) -> None:
    path, process = other_holder
    process.kill()
    process.wait()
    assert holder_of(path) == ""
    with exclusive_lock(path, purpose="destroy demo"):
        assert f"process {os.getpid()} " in holder_of(path)
    assert holder_of(path) == ""


def test_waiting_takes_over_when_the_holder_ends(other_holder: Holder) -> None:
    path, process = other_holder
    assert process.stdin is not None
    process.stdin.close()
    with exclusive_lock(path, purpose="destroy demo", wait_seconds=PATIENCE):
        assert holder_of(path)


def test_a_planted_link_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("keep me")
    link = tmp_path / "demo.lock"
    link.symlink_to(target)
    with pytest.raises(StateError, match="it is a symbolic link"), exclusive_lock(link, purpose="x"):
        pytest.fail("followed a link")
    assert target.read_text() == "keep me"


def test_a_wait_in_vain_names_the_holder(other_holder: Holder) -> None:
    path, process = other_holder
    with (
        pytest.raises(ConflictError, match=rf"process {process.pid} .*did not end within 0.2 s"),
        exclusive_lock(path, purpose="destroy demo", wait_seconds=0.2),
    ):
        pytest.fail("two hold it")


def test_a_stop_ends_the_wait(other_holder: Holder) -> None:
    path, process = other_holder
    stop = StopFlag()
    threading.Timer(0.2, stop.set).start()
    with (
        pytest.raises(InterruptedRunError, match=f"while waiting for process {process.pid} "),
        exclusive_lock(path, purpose="destroy demo", wait_seconds=PATIENCE, stop=stop),
    ):
        pytest.fail("two hold it")


def test_a_file_that_goes_with_what_it_guards_takes_its_lock_from_nobody(tmp_path: Path) -> None:
    """Who waited for it holds the lock of the file that is there now, and so does one who came later."""
    path = tmp_path / "demo.lock"
    inside: list[str] = []
    most: list[int] = []
    waits = threading.Event()

    class Waiting(StopFlag):
        def wait(self, seconds: float) -> bool:
            waits.set()
            return super().wait(seconds)

    def work(name: str) -> None:
        with exclusive_lock(path, purpose=name, wait_seconds=PATIENCE, stop=Waiting(), goes=lambda: True):
            inside.append(name)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(name)

    with exclusive_lock(path, purpose="first", goes=lambda: True):
        waiting = [threading.Thread(target=work, args=(str(number),)) for number in range(8)]
        for thread in waiting:
            thread.start()
        assert waits.wait(PATIENCE)
    for thread in waiting:
        thread.join(PATIENCE)
    assert most == [1] * 8
    assert not path.exists()


def test_a_file_stays_while_what_it_guards_is_there(tmp_path: Path) -> None:
    path = tmp_path / "demo.lock"
    with exclusive_lock(path, purpose="provision demo", goes=lambda: False):
        pass
    assert path.exists()


SILENT = """
import fcntl, sys
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_whose_file_names_no_holder_is_found_in_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    argv = [sys.executable, "-c", SILENT, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with path.open("a+") as file, pytest.raises(ConflictError, match="held by") as caught:
            acquire(file.fileno(), path, seconds=0.1)
        if f"process {process.pid} " not in caught.value.what:  # a container may show no locks
            assert not Path("/proc/locks").read_text().count(f":{path.stat().st_ino} ")
        assert process.stdin is not None
        process.stdin.close()


def test_a_ledger_that_another_holds_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emulator.apply.gpu_ownership.LAYOUT_SECONDS", 0.2)
    ledger = GpuLedger(tmp_path / "gpu-owners.json")
    with (
        ledger.layout(),
        pytest.raises(ConflictError, match=rf"process {os.getpid()} .*layout of the GPUs"),
        GpuLedger(tmp_path / "gpu-owners.json").layout(),
    ):
        pytest.fail("two hold it")
    with ledger.layout():
        ledger.claim("a", "demo")


def test_an_audit_log_that_another_holds_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("emulator.apply.audit.WAIT_SECONDS", 0.2)
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append({"id": "a"})
    with log.path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ConflictError, match="held by"):
            log.append({"id": "b"})
    log.append({"id": "c"})
    assert [entry["id"] for entry in log.read()[0]] == ["a", "c"]


@pytest.fixture
def host_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(lock, "HOST_LOCKS", tmp_path / "run" / "locks")
    return lock.HOST_LOCKS


def test_locks_of_the_host_lie_in_directories_of_root_s_alone(host_locks: Path) -> None:
    with exclusive_lock(host_locks / "networks.lock", purpose="a"):
        for directory in (host_locks.parent, host_locks):
            assert directory.stat().st_mode & 0o777 == 0o700
    with exclusive_lock(host_locks / "networks.lock", purpose="b"):
        pass


def test_the_outer_directory_may_go_while_the_inner_one_is_made(
    host_locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Path] = []

    def look(directory: Path) -> None:
        looked.append(directory)
        if len(looked) == 1:
            directory.rmdir()

    monkeypatch.setattr(lock, "_require_own", look)
    with exclusive_lock(host_locks / "gpu.lock", purpose="a"):
        assert looked == [host_locks.parent, host_locks.parent, host_locks]


def others_may_write(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o777)


def a_link(directory: Path) -> None:
    directory.with_name("elsewhere").mkdir(mode=0o700)
    directory.symlink_to(directory.with_name("elsewhere"))


@pytest.mark.parametrize("make", [others_may_write, a_link, Path.touch])
@pytest.mark.parametrize("outer", [True, False])
def test_a_directory_of_locks_that_another_user_may_have_made_is_refused(
    host_locks: Path, make: Callable[[Path], object], outer: bool
) -> None:
    if not outer:
        host_locks.parent.mkdir(mode=0o700)
    bad = host_locks.parent if outer else host_locks
    make(bad)
    with (
        pytest.raises(StateError, match="users other than root can write") as caught,
        exclusive_lock(host_locks / "gpu.lock", purpose="a"),
    ):
        pytest.fail("taken")
    assert caught.value.where == str(bad)


def test_a_directory_of_locks_of_another_user_is_refused(host_locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host_locks.mkdir(mode=0o700, parents=True)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with (
        pytest.raises(StateError, match="users other than root can write"),
        exclusive_lock(host_locks / "gpu.lock", purpose="a"),
    ):
        pytest.fail("taken")


def test_root_s_locks_of_the_host_are_not_where_everybody_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(Path("/somewhere"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert lock.host_locks(home) == lock.HOST_LOCKS == Path("/run/hyperscaler/locks")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert lock.host_locks(home) == home.host_locks


@pytest.mark.parametrize("name", ["networks", "gpu-layout", "preparation", "host"])
def test_a_lab_of_any_name_does_not_wait_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Users other than root have the locks of the host in their home, where those of their labs are, too."""
    home = Home(tmp_path)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with exclusive_lock(home.locks / f"{name}.lock", purpose=f"provision {name}"):
        for shared in ("networks", "gpu-layout", "preparation"):
            with exclusive_lock(lock.host_locks(home) / f"{shared}.lock", purpose="a network"):
                pass
