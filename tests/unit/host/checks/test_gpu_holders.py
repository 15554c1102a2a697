"""Processes that have a GPU open: in whose way they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.apply.journal import Journal
from emulator.apply.state import StateStore
from emulator.core.paths import Home
from emulator.host.checks.gpu_holders import check_holders
from emulator.host.checks.result import HostCheckResult, Level, Wanted
from emulator.operations.host.check import check_host
from emulator.plan.gpu_resources import WholeGpu
from tests.support import host_trees

A100, QUADRO = "0000:41:00.0", "0000:ca:00.0"
MINORS = {
    f"/proc/driver/nvidia/gpus/{A100}/information": "Model: \t\t NVIDIA A100\nDevice Minor: \t 1\n",
    f"/proc/driver/nvidia/gpus/{QUADRO}/information": "Model: \t\t Quadro RTX 6000\nDevice Minor: \t 0\n",
}
SLICES = Wanted(lab="l", devices=(("GPU-0", A100),), slices=True)
WHOLE = Wanted(lab="l", devices=(("GPU-0", A100),), whole=True)


def judge(root: Path, wanted: Wanted, name: str, *nodes: str, tree: str = "intel") -> HostCheckResult:
    table = host_trees.table(tree)
    changes = {"processes": {**table["processes"], 800: name}, "holds": {800: list(nodes)}}
    return check_holders(host_trees.read(host_trees.plant(root, tree, files=MINORS, **changes)), wanted)


@pytest.mark.parametrize(
    ("wanted", "name", "node", "level"),
    [
        (SLICES, "python3", "/dev/nvidia1", Level.FAIL),
        (WHOLE, "python3", "/dev/nvidia1", Level.FAIL),
        (SLICES, "python3", "/dev/nvidia0", Level.WARN),  # the GPU that the file does not ask for
        (Wanted(), "python3", "/dev/nvidia1", Level.WARN),
        # It is stopped for nobody, and a GPU does not leave its driver while it runs.
        (SLICES, "nvidia-persiste", "/dev/nvidia1", Level.WARN),
        (WHOLE, "nvidia-persiste", "/dev/nvidia1", Level.FAIL),
        (SLICES, "nvidia-vgpu-mgr", "/dev/nvidia1", Level.WARN),
    ],
)
def test_a_held_gpu_stops_only_the_lab_that_asks_for_it(
    tmp_path: Path, wanted: Wanted, name: str, node: str, level: Level
) -> None:
    result = judge(tmp_path, wanted, name, node)
    assert result.level is level
    asked = f"; the lab asks for GPU-0 ({A100}), which {name} (800) has open" if level is Level.FAIL else ""
    assert result.found == f"{name} (800){asked}"


def test_a_gpu_at_another_guest_and_at_the_lab_s_own(tmp_path: Path) -> None:
    gpu = "0000:c1:00.0"  # group 15, bound to vfio-pci
    wanted = Wanted(lab="l", devices=(("GPU-0", gpu),), whole=True)
    other = judge(tmp_path / "a", wanted, "qemu-system-x86", "/dev/vfio/15", tree="amd")
    assert other.level is Level.FAIL and other.fix.endswith("kill 800")
    own = Wanted(lab="l", devices=(("GPU-0", gpu),), whole=True, own_gpus=frozenset({gpu}))
    mine = judge(tmp_path / "b", own, "qemu-system-x86", "/dev/vfio/15", tree="amd")
    assert (mine.level, mine.found) == (Level.PASS, "none")


LAB = """\
version: "1.0"
metadata: {name: owner}
global:
  gpu_allocation:
    strategy: whole
    backend: nvml
    devices: [{id: GPU-0, pci_address: "0000:c1:00.0", model: A100-PCIE-40GB}]
clusters: {hpc: {controller: {memory_gb: 4}, compute_nodes: {count: 1, memory_gb: 4}}}
"""


def test_which_gpus_are_the_lab_s_own_is_on_its_record(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(LAB)
    table = host_trees.table("amd")
    changes = {"processes": {**table["processes"], 800: "qemu-system-x86"}, "holds": {800: ["/dev/vfio/15"]}}
    root = host_trees.plant(tmp_path / "root", "amd", **changes)
    home = Home(tmp_path / "home")

    def level() -> Level:
        report = check_host(lambda: host_trees.read(root), tmp_path / "lab.yaml", home)
        return next(result.level for result in report.results if result.id == "gpu.holders")

    assert level() is Level.FAIL
    home.lab("owner").journal.parent.mkdir(parents=True)
    store = StateStore(Journal(home.lab("owner").journal), boot_id="b")
    gpu = WholeGpu(
        name="GPU-0", device="GPU-0", pci_address="0000:c1:00.0", node="hpc-compute-1", demand="hpc-compute-1"
    )
    store.start_run("provision")
    store.begin("create", gpu)
    store.end("create", gpu, {"driver_before": "nvidia"})
    assert level() is Level.PASS
