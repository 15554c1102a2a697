"""The gpu verbs as a person calls them, over simulated GPUs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import emulator.wiring
from emulator.adapters.simulated.nvml.store import SimProcess
from emulator.cli.commands.gpu.gpu import command
from emulator.core.errors import ConfigError, ExitCode, HostNotFitError, HyperscalerError, UsageError
from emulator.gpu.model import Placement
from emulator.gpu.placement.demand import Assignment
from emulator.lab.mdev_map import lab_mdev_map
from tests.support.gpu_environment import GpuEnvironment, gpu_environment
from tests.support.gpu_lab import FIRST, SECOND, sliced

LAB = f"""
version: "1.0"
metadata: {{name: demo}}
global:
  gpu_allocation:
    backend: nvml
    strategy: mig
    devices:
      - id: gpu-0
        pci_address: "{FIRST}"
        model: A100-SXM4-80GB
        mig_capable: true
    mig_slices: {{hpc: {{1g.10gb: 2}}}}
clusters:
  hpc:
    compute_nodes: {{count: 2, gpu_enabled: true}}
"""
NODES = {"n1": [sliced("a", "3g.40gb", 4)], "n2": [Assignment("w", "gpu-1")]}


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GpuEnvironment]:
    with gpu_environment(tmp_path) as made:
        monkeypatch.setattr(emulator.wiring, "real_environment", lambda: made.environment)
        monkeypatch.setenv("HYPERSCALER_HOME", str(made.home.root))
        yield made


def gpu(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(item) for item in arguments])


def fails(error: type[HyperscalerError], *arguments: str | Path) -> HyperscalerError:
    result = gpu(*arguments)
    assert isinstance(result.exception, error), result.output + repr(result.exception)
    return result.exception


def lab_file(tmp_path: Path, text: str = LAB) -> Path:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    return file


# ---------------------------------------------------------------- discover
def test_discover_tells_everything(demo: GpuEnvironment) -> None:
    demo.lab.apply(demo.lab.wanted(**NODES))
    demo.lab.host.nvml.create_instance(FIRST, 19, Placement(0, 1))
    with demo.lab.gpu() as seen:
        seen.processes.append(SimProcess(900, "nvidia-persistenced", client=True))
    ids = {item.profile: item.gi_id for item in demo.lab.host.nvml.instances(FIRST)}
    text = gpu("discover").stdout
    for part in (
        FIRST,
        "NVIDIA A100-SXM4-80GB",
        "81920 MiB",
        "MIG mode:       on",
        "1g.10gb (id 19, 9856 MiB, up to 7) at 0, 1, 2, 3, 4, 5, 6",
        f"3g.40gb at 4, id {ids['3g.40gb']}: lab demo",
        f"1g.10gb at 0, id {ids['1g.10gb']}: not made by hyperscaler",
        "vGPU framework: mdev",
        "16 virtual: 0000:41:00.4 to 0000:41:02.3",
        f"10: {FIRST} (nvidia)",
        "nvidia-persistenced (pid 900, /dev/nvidia0)",
        "does not see the GPU; lab demo has it as a whole",
        "driver 580.95.05",
    ):
        assert part in text, part


def test_discover_as_json(demo: GpuEnvironment) -> None:
    demo.lab.apply(demo.lab.wanted(**NODES))
    result = gpu("discover", "--json")
    data = json.loads(result.stdout)
    first, second = data["gpus"]
    assert data["version"] == 1 and data["simulated"] is True and data["differences"] == []
    assert [(item["profile"], item["start"], item["lab"]) for item in first["nvml"]["instances"]] == [
        ("3g.40gb", 4, "demo")
    ]
    assert second["nvml"] is None and second["lab"] == "demo" and second["driver"] == "vfio-pci"
    assert demo.opened == [("nvml", True)]


def test_discover_compares_a_file_with_the_gpus(demo: GpuEnvironment, tmp_path: Path) -> None:
    assert gpu("discover", lab_file(tmp_path)).exit_code == ExitCode.DONE
    moved = lab_file(tmp_path, LAB.replace(FIRST, "0000:99:00.0"))
    for arguments in ([moved], ["--file", moved]):
        result = gpu("discover", *arguments)
        assert result.exit_code == ExitCode.FAILED
        assert "differs: gpu-0: pci_address is 0000:99:00.0 in the file" in result.stderr
        assert "fix: set pci_address to one of those" in result.stderr
    (difference,) = json.loads(gpu("discover", moved, "--json").stdout)["differences"]
    assert (difference["device"], difference["field"]) == ("gpu-0", "pci_address")


def test_a_gpu_that_the_lab_has_whole_is_no_difference(demo: GpuEnvironment, tmp_path: Path) -> None:
    demo.lab.apply(demo.lab.wanted(n1=[Assignment("w", "gpu-0")]))
    assert gpu("discover", lab_file(tmp_path)).exit_code == ExitCode.DONE


def test_a_simulated_lab_shows_its_simulated_gpus(demo: GpuEnvironment, tmp_path: Path) -> None:
    file = lab_file(tmp_path, LAB.replace("backend: nvml", "backend: simulated"))
    assert gpu("discover", file).stdout.startswith("simulated GPUs")
    assert demo.opened == [("simulated", True)]


def test_without_a_driver_the_way_out_is_told(demo: GpuEnvironment) -> None:
    with demo.lab.gpus.store.change() as state:
        state.driver_loaded = False
    for verb in ("discover", "top"):
        error = fails(HostNotFitError, verb)
        assert "no NVIDIA driver on this host" in error.what and "backend: simulated" in error.fix
        assert error.exit_code == ExitCode.HOST_NOT_FIT


def test_a_wrong_file_is_refused_before_anything_is_asked(demo: GpuEnvironment, tmp_path: Path) -> None:
    fails(ConfigError, "discover", lab_file(tmp_path, "version: 7"))
    assert demo.opened == []


# ---------------------------------------------------------------- plan
def test_plan_draws_a_file_and_needs_no_gpus(demo: GpuEnvironment, tmp_path: Path) -> None:
    drawing = tmp_path / "layout.svg"
    result = gpu("plan", lab_file(tmp_path), "--svg", drawing)
    assert result.exit_code == ExitCode.DONE and demo.opened == []
    assert "gpu-0  NVIDIA A100-SXM4-80GB" in result.stdout and "\x1b" not in result.stdout
    assert ET.fromstring(drawing.read_text()).tag.endswith("svg")  # noqa: S314 - our own drawing
    data = json.loads(gpu("plan", lab_file(tmp_path), "--json").stdout)
    assert data["feasible"] and len(data["boards"][0]["assignments"]) == 2


def test_plan_keeps_what_is_there_where_it_is(demo: GpuEnvironment, tmp_path: Path) -> None:
    demo.lab.apply(demo.lab.wanted(**{"hpc_compute_1": [sliced("hpc-compute-1/0", "1g.10gb", 6)]}))
    data = json.loads(gpu("plan", lab_file(tmp_path), "--json").stdout)
    placed = {item["demand"]: item["start"] for item in data["boards"][0]["assignments"]}
    assert placed["hpc-compute-1/0"] == 6


def test_what_if_answers(demo: GpuEnvironment) -> None:
    result = gpu("plan", "--gpu", "A100-SXM4-80GB:2", "--demand", "1g.10gb=4,3g.40gb=1", "--ascii")
    assert result.exit_code == ExitCode.DONE and result.stdout.isascii()
    assert "GPU-1" in result.stdout


def test_what_does_not_fit_is_explained(demo: GpuEnvironment) -> None:
    question = ("plan", "--gpu", "A100-SXM4-80GB", "--demand", "1g.10gb=4,3g.40gb=2")
    result = gpu(*question)
    assert result.exit_code == ExitCode.FAILED
    assert "it does not fit" in result.stderr and "fix: drop 1 x 3g.40gb" in result.stderr
    result = gpu(*question, "--json")
    data = json.loads(result.stdout)
    assert result.exit_code == ExitCode.FAILED and not data["feasible"]
    assert data["reasons"] and data["changes"] and data["unplaced"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan",),
        ("plan", "--gpu", "A100-SXM4-80GB"),
        ("plan", "--demand", "1g.10gb=1"),
        ("plan", "--gpu", "Voodoo 2", "--demand", "1g.10gb=1"),
        ("plan", "--gpu", "A100-SXM4-80GB:0", "--demand", "1g.10gb=1"),
        ("plan", "--gpu", "A100-SXM4-80GB", "--demand", "1g.10gb=many"),
    ],
)
def test_half_a_question_is_refused(demo: GpuEnvironment, arguments: tuple[str, ...]) -> None:
    assert fails(UsageError, *arguments).fix


def test_plan_of_a_file_without_gpus(demo: GpuEnvironment, tmp_path: Path) -> None:
    file = lab_file(tmp_path, 'version: "1.0"\nmetadata: {name: demo}\nclusters: {hpc: {}}\n')
    assert "has no GPUs" in fails(UsageError, "plan", file).what


def test_a_drawing_that_cannot_be_written(demo: GpuEnvironment, tmp_path: Path) -> None:
    assert (
        "cannot be written"
        in fails(HyperscalerError, "plan", lab_file(tmp_path), "--svg", tmp_path / "absent" / "x.svg").what
    )


# ---------------------------------------------------------------- top, map
def test_top_names_holders(demo: GpuEnvironment) -> None:
    demo.lab.apply(demo.lab.wanted(**NODES))
    demo.lab.host.nvml.create_instance(FIRST, 19, Placement(0, 1))
    demo.provisioned()
    for arguments in (("top",), ("top", "demo")):
        lines = gpu(*arguments).stdout.splitlines()
        assert any("3g.40gb at 4" in line and line.endswith("demo/n1") for line in lines)
        assert any("1g.10gb at 0" in line and line.endswith("not made by hyperscaler") for line in lines)
        assert any(line.startswith(SECOND) and line.endswith("demo/n2") for line in lines)
    first, second = json.loads(gpu("top", "demo", "--json").stdout)["boards"]
    assert first["memory_total_mib"] == 81920
    assert {item["node"] for item in first["slices"]} == {None, "n1"}
    assert second["node"] == "n2" and second["memory_used_mib"] is None


def test_top_shows_what_a_gpu_does(demo: GpuEnvironment) -> None:
    with demo.lab.gpu() as shown:
        shown.utilisation = 37
        shown.processes.append(SimProcess(7, "python3", memory_mib=1000))
    first = json.loads(gpu("top", "--json").stdout)["boards"][0]
    assert first["gpu_percent"] == 37 and first["memory_used_mib"] >= 1000
    assert "37 %" in gpu("top").stdout


def test_top_of_labs_without_gpus(demo: GpuEnvironment) -> None:
    assert "there is no lab absent" in fails(UsageError, "top", "absent").what
    assert "has no GPUs" in fails(UsageError, "top", "demo").what
    fails(UsageError, "top", "../etc")


def test_map_prints_the_map(demo: GpuEnvironment) -> None:
    demo.lab.apply(demo.lab.wanted(**NODES))
    assert json.loads(gpu("map", "demo", "--json").stdout) == lab_mdev_map(demo.paths, demo.lab.state)
    text = gpu("map", "demo").stdout
    assert "n1" in text and "3g.40gb at 4" in text and "whole" in text
    fails(UsageError, "map", "absent")


# ---------------------------------------------------------------- release
def test_release_gives_back(demo: GpuEnvironment) -> None:
    blank = demo.lab.snapshot()
    demo.lab.apply(demo.lab.wanted(**NODES))
    demo.provisioned()
    assert "no terminal to confirm on" in fails(UsageError, "release", "demo").what
    result = gpu("release", "demo", "--yes")
    assert result.stdout == "demo: 5 GPU resources given back\n"
    assert demo.lab.snapshot() == blank
    assert gpu("release", "demo", "--yes").stdout == "demo has nothing on the host's GPUs\n"


def test_release_as_json(demo: GpuEnvironment) -> None:
    demo.lab.apply(demo.lab.wanted(**NODES))
    demo.provisioned()
    data = json.loads(gpu("release", "demo", "--yes", "--json").stdout)
    assert data["released"] is True and len(data["changes"]) == 5
