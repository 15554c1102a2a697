"""A guest that broke out of QEMU ends QEMU's first thread and goes on in another: the kernel calls the process a zombie
then, and shows neither its namespaces nor its files. It is found, and ended, all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.adapters.embedded.processes import end_processes, find_processes
from emulator.core.trust.identity import ProcessIdentity
from emulator.core.trust.processes import running_thread, start_time

GOES_ON = """
import ctypes, signal, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
threading.Thread(target=time.sleep, args=(600,)).start()
print("there", flush=True)
ctypes.CDLL(None).syscall({number}, 0)  # exit(2) of this thread alone
"""
EXIT = {"x86_64": 60, "aarch64": 93}.get(os.uname().machine, 0)
PROGRAM = [sys.executable, "-I", "-c", GOES_ON.format(number=EXIT)]

pytestmark = pytest.mark.skipif(not EXIT, reason="the number of exit(2) is not known here")


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def started(argv: list[str]) -> Iterator[int]:
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "there\n"
        try:
            while state_of(process.pid) != "Z":
                os.sched_yield()
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def goes_on() -> Iterator[int]:
    yield from started(PROGRAM)


def test_it_has_a_thread_that_runs(goes_on: int) -> None:
    found = running_thread(goes_on)
    assert found is not None and found.parent == Path(f"/proc/{goes_on}/task") and found.name != str(goes_on)
    assert running_thread(os.getpid()) == Path(f"/proc/{os.getpid()}")


def test_a_process_of_which_all_has_ended_has_none() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert state_of(process.pid) == "Z"
        assert running_thread(process.pid) is None
    assert running_thread(process.pid) is None


def test_it_is_not_taken_for_a_supervisor_that_ended(goes_on: int) -> None:
    assert ProcessIdentity.of(goes_on).lives() and ProcessIdentity.of(goes_on).started == start_time(goes_on)


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[int]:
    """One in the mount namespace of a lab's hypervisor."""
    unshare = shutil.which("unshare")
    if os.geteuid() != 0 or unshare is None or not Path("/run").is_dir():
        pytest.skip("only root has mount namespaces")
    (tmp_path / "run").mkdir()
    mounts = 'mount -t tmpfs none /run && mkdir /run/libvirt && mount --bind "$1" /run/libvirt && shift && exec "$@"'
    argv = [unshare, "-m", "sh", "-c", mounts, "sh", str(tmp_path / "run"), *PROGRAM]
    tried = subprocess.run([*argv[: -len(PROGRAM)], "true"], check=False, capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"no mounts here: {tried.stderr}")
    yield from started(argv)


def test_the_end_of_a_lab_finds_it_and_ends_it(inside: int, tmp_path: Path) -> None:
    found = find_processes(tmp_path)
    assert [process.pid for process in found] == [inside]
    assert found[0].thread != inside and Path(f"/proc/{found[0].thread}/ns/net").exists()
    assert end_processes(found, tmp_path, patience=0.2) == ()
    assert running_thread(inside) is None
