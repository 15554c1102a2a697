"""Several commands at once, on a real private libvirtd: the second waits or is told, readers are never in the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from emulator.adapters.simulated.nvml.store import GpuStore
from emulator.apply.gpu_ownership import GpuLedger
from emulator.core.errors import ConflictError
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.operations.provision import Options, ProvisionResult, provision
from tests.support.real_lab import RealLab, host_traces

pytestmark = pytest.mark.host

COMMAND = Path(sys.executable).with_name("hyperscaler")
STATUS_CALLS = 50


class Gate:
    """Holds a provision at its first domain until it is opened."""

    def __init__(self, lab: RealLab) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        lab.hook.before = self._pass

    def _pass(self, name: str) -> None:
        if name == "libvirt.define_domain":
            self.reached.set()
            assert self.opened.wait(300)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RealLab]:
    made = RealLab(tmp_path, f"busy{os.getpid()}")
    before = host_traces(tmp_path, made.namespace)
    yield made
    made.hook.before = lambda _name: None
    made.destroy()
    made.close()
    assert host_traces(tmp_path, made.namespace) == before


def call(lab: RealLab, *words: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HYPERSCALER_HOME": str(lab.home.root)}
    return subprocess.run(
        [COMMAND, *map(str, words)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_readers_and_rivals_of_a_busy_lab(lab: RealLab) -> None:
    gate = Gate(lab)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(lab.provision)
        assert gate.reached.wait(120)
        try:
            started = time.monotonic()
            refused = call(lab, "provision", lab.root / f"{lab.name}.yaml", "--yes", "--json")
            seconds = time.monotonic() - started
            assert refused.returncode == 5, refused.stderr
            error = json.loads(refused.stdout)["error"]
            assert f"process {os.getpid()} on " in error["what"]
            assert f"provision {lab.name}" in error["what"]
            assert "--wait" in error["fix"]
            print(f"the second was refused after {seconds:.1f} s")

            answers = list(pool.map(lambda _n: call(lab, "status", lab.name, "--json"), range(STATUS_CALLS)))
            assert [answer.returncode for answer in answers] == [0] * STATUS_CALLS, answers[0].stderr
            seen = [json.loads(answer.stdout) for answer in answers]
            assert all(f"process {os.getpid()}" in status["busy"] for status in seen)

            waiting = call(lab, "destroy", lab.name, "--yes", "--wait", "1")
            assert waiting.returncode == 5, waiting.stderr
            assert not first.done()

            patient = RealLab(lab.root, lab.name)
            second = pool.submit(waiting_provision, patient, 120.0)
            time.sleep(0.5)
            assert not second.done()
        finally:
            gate.opened.set()
        assert all(check.ok for check in first.result(120).checks)
        assert second.result(120).plan.is_empty, "the second found nothing left to do"
        patient.close()


def waiting_provision(lab: RealLab, seconds: float) -> ProvisionResult:
    return provision(lab.environment(), lab.file, Options(wait_seconds=seconds), SilentReporter(), StopFlag())


def test_the_lock_of_a_dead_process_does_not_block(lab: RealLab) -> None:
    lock = lab.home.locks / f"{lab.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    holder = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from emulator.apply.lock import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1]), purpose='provision'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(300)\n"
    )
    with subprocess.Popen([sys.executable, "-c", holder, str(lock)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ConflictError, match=f"process {process.pid}"):
            lab.provision()
        process.kill()
    assert "purpose" in lock.read_text(), "the dead process's note is still there"
    assert all(check.ok for check in lab.provision().checks)


def test_two_labs_at_once_share_the_gpus(tmp_path: Path) -> None:
    """Each in a process of its own; both want slices of one GPU."""
    names = [f"one{os.getpid()}", f"two{os.getpid()}"]
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.support.real_lab import RealLab\n"
        "lab = RealLab(Path(sys.argv[1]), sys.argv[2], slices=True, gpus=Path(sys.argv[1]) / 'boards')\n"
        "assert all(check.ok for check in lab.provision().checks)\n"
        "assert lab.plan().is_empty\n"
        "lab.close()\n"
    )
    path = str(Path(__file__).parents[2])
    gpus = tmp_path / "boards"
    labs = [RealLab(tmp_path, name, slices=True, gpus=gpus) for name in names]
    before = [host_traces(tmp_path, made.namespace) for made in labs]
    try:
        running = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(tmp_path), name],
                env={**os.environ, "PYTHONPATH": path},
                stderr=subprocess.PIPE,
                text=True,
            )
            for name in names
        ]
        said = [process.communicate(timeout=300)[1] for process in running]  # both end before either is judged
        assert [process.returncode for process in running] == [0, 0], "".join(said)
        state = GpuStore(gpus).look()
        assert [len(gpu.instances) for gpu in state.gpus] == [len(names)]
        assert len({instance.start for instance in state.gpus[0].instances}) == len(names)
        assert sorted(set(GpuLedger(gpus / "owners.json").read().values())) == names
    finally:
        for made in labs:
            made.destroy()
            made.close()
    assert [host_traces(tmp_path, made.namespace) for made in labs] == before
