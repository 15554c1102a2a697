"""A lab whose tool is killed outright at every stage, with no chance to tidy up: the next run goes on, nothing is lost,
and `destroy` leaves nothing, also when the lab's directory is gone."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from emulator.core.paths import Home
from tests.support.labs import COMMAND, host_snapshot, hyperscaler, left_behind

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("no_lab_left")]

LAB = "e2e-killed"
SPEC = f"""
version: "1.0"
metadata: {{name: {LAB}}}
global:
  gpu_allocation:
    backend: simulated
    devices: [{{id: GPU-0, model: NVIDIA A100-SXM4-80GB, mig_capable: true}}]
clusters:
  hpc:
    controller: {{cpu_cores: 2, memory_gb: 2, disk_gb: 8}}
    compute_nodes: {{count: 1, cpu_cores: 1, memory_gb: 1, disk_gb: 8, gpu_enabled: true, gpu: {{profile: 1g.10gb}}}}
hypervisor: {{uri: embedded}}
"""
# The progress line at which the tool dies, in the order in which provision comes by them.
STAGES = {
    "while GPUs are carved": "gpu-instance/",
    "while the hypervisor starts": "hypervisor/embedded",
    "while machines are made": "domain/",
    "while machines boot": "boot ",
    "while nodes are configured": "configure hpc-controller",
    "while the lab is verified": "verify ",
}


@pytest.fixture(scope="module")
def lab_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lab") / "cluster.yaml"
    path.write_text(SPEC)
    return path


def kill_at(trigger: str, *arguments: str | Path) -> str:
    """Run the command until a line of its progress holds `trigger`, then kill it; the line. Empty if it ended first."""
    argv = [str(COMMAND), *map(str, arguments)]
    print(f"$ hyperscaler {' '.join(map(str, arguments))}, killed at '{trigger}'", flush=True)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            print(line, end="", flush=True)
            if trigger in line:
                run.kill()
                return line
    return ""


def interrupt_at(trigger: str, *arguments: str | Path, times: int) -> tuple[int, str, float]:
    """Ctrl-C at the first line with `trigger`, and again at the answer to it: exit code, output, seconds since."""
    argv = [str(COMMAND), *map(str, arguments)]
    print(f"$ hyperscaler {' '.join(map(str, arguments))}, {times} times Ctrl-C at '{trigger}'", flush=True)
    said, sent, started = "", 0, 0.0
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        for line in run.stderr:
            print(line, end="", flush=True)
            said += line
            if (sent == 0 and trigger in line) or (0 < sent < times and "once more to abort" in line):
                started = time.monotonic()
                run.send_signal(signal.SIGINT)
                sent += 1
        code = run.wait(timeout=60)
    return code, said, time.monotonic() - started


def test_one_interrupt_stops_cleanly(lab_file: Path, before: dict[str, list[str]]) -> None:
    code, said, _ = interrupt_at("create: not present", "provision", lab_file, "--yes", times=1)
    assert code == 1
    assert "finishing what is under way" in said
    assert "everything done so far is on record" in said
    problems = hyperscaler("status", LAB, "--json").json()["problems"]
    assert not any("interrupted" in line for line in problems), "no effect was left half done"


def test_two_interrupts_abort_at_once(lab_file: Path, before: dict[str, list[str]]) -> None:
    code, said, seconds = interrupt_at("configure hpc-controller", "provision", lab_file, "--yes", times=2)
    assert code == 130
    assert "aborted at once" in said
    print(f"aborted within {seconds:.1f} s")
    assert hyperscaler("status", LAB, "--json").json()["busy"] == ""
    hyperscaler("destroy", LAB, "--yes")
    assert left_behind(before, host_snapshot()) == {}


def test_what_a_killed_run_started_goes_with_the_lab(lab_file: Path, before: dict[str, list[str]]) -> None:
    """Ansible goes on when the tool is killed, and waits for nodes that are no more."""
    assert kill_at("configure hpc-controller", "provision", lab_file, "--yes")
    hyperscaler("destroy", LAB, "--yes")
    assert left_behind(before, host_snapshot()) == {}


def assert_finished(lab_file: Path) -> None:
    done = hyperscaler("provision", lab_file, "--yes", "--json").json()
    assert done["checks"]
    assert all(check["ok"] for check in done["checks"])
    assert hyperscaler("plan", lab_file, "--json").json()["changes"] == []
    hosts = hyperscaler("ssh", LAB, "hpc-controller", "--", "srun", "-N1", "hostname").stdout
    assert hosts.strip() == "hpc-compute-1"


@pytest.mark.thorough
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_each_stage_of_a_new_lab(lab_file: Path, before: dict[str, list[str]], stage: str) -> None:
    """Each kill is recovered from on its own: the next run finishes the lab and proves it; then it goes."""
    if LAB in [lab["lab"] for lab in hyperscaler("status", "--json").json()["labs"]]:
        hyperscaler("destroy", LAB, "--yes")
    assert kill_at(STAGES[stage], "provision", lab_file, "--yes"), f"provision ended before it came to: {STAGES[stage]}"
    assert hyperscaler("status", LAB, "--json", check=False).json()["lab"] == LAB
    assert_finished(lab_file)
    hyperscaler("destroy", LAB, "--yes")


@pytest.mark.parametrize("stage", STAGES)
def test_killed(lab_file: Path, before: dict[str, list[str]], stage: str) -> None:
    """One after the other, so that each run goes on where the last one was killed."""
    assert kill_at(STAGES[stage], "provision", lab_file, "--yes"), f"provision ended before it came to: {STAGES[stage]}"
    assert hyperscaler("status", LAB, "--json", check=False).json()["lab"] == LAB


def test_the_next_run_finishes_the_lab(lab_file: Path) -> None:
    assert_finished(lab_file)


def test_a_killed_destroy_is_finished_by_the_next(lab_file: Path, before: dict[str, list[str]]) -> None:
    assert kill_at("domain/", "destroy", LAB, "--yes")
    hyperscaler("destroy", LAB, "--yes")
    assert left_behind(before, host_snapshot()) == {}


def test_destroy_without_the_lab_s_directory(lab_file: Path, before: dict[str, list[str]]) -> None:
    hyperscaler("provision", lab_file, "--yes")
    shutil.rmtree(Home.default().lab(LAB).root)
    hyperscaler("destroy", LAB, "--yes")
    assert left_behind(before, host_snapshot()) == {}
