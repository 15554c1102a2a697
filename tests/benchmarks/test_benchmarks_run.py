"""The benchmarks run, at a size that takes no time; their figures are read on a quiet machine, with `make bench`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emulator.adapters.embedded.qemu_capabilities import QemuCapabilities
from tests.support.waiting import PATIENCE

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# A file with the words that make it small, and a figure that it must print.
SMALL = {
    "bench_journal.py": (("--appends", "5", "--nodes", "6", "--runs", "1"), r"append with fsync: median [\d.]+ ms"),
    "bench_validate.py": (("--nodes", "40", "--runs", "1"), r"median_s [\d.]+"),
    "bench_solver.py": (("--exhaustive", "3", "--fleets", "1"), r"64 GPUs, 1 random fleets: mean [\d.]+ ms"),
    "bench_carve.py": (("--runs", "1"), r"56 slices: median [\d.]+ s"),
}
NEEDS_A_HOST = {"bench_hardening_boot.py", "bench_provision.py", "stress.py"}
"""Root, QEMU, and libvirtd or an image: they are run by `make bench` and `make stress`; here their options are read."""


def run(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(BENCHMARKS / name), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_prints_its_figures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words, figure = SMALL[name]
    monkeypatch.chdir(BENCHMARKS.parent)
    done = run(name, *words)
    # 1 says that a bound was missed, which a busy machine may do; a benchmark that cannot run leaves a traceback.
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert re.search(figure, done.stdout), done.stdout
    assert done.stdout.startswith("compared: "), "a reader wants to know what is compared with what"


@pytest.mark.parametrize("name", sorted(NEEDS_A_HOST))
def test_a_benchmark_can_be_started(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr


class Sides:
    """Two sides that note what they find in the cache of what QEMU can, and fill it."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.seen = cache, list[tuple[str, bool]]()

    def side(self, name: str) -> Callable[[QemuCapabilities], float]:
        def run(_known: QemuCapabilities) -> float:
            self.seen.append((name, self.cache.is_dir()))
            self.cache.mkdir(exist_ok=True)
            return 1.0

        return run


@pytest.mark.parametrize("warm", [True, False])
def test_both_sides_of_a_pair_find_the_same_cache(tmp_path: Path, warm: bool) -> None:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from bench_provision import pairs
    finally:
        sys.path.remove(str(BENCHMARKS))
    sides = Sides(tmp_path / "cache")
    counted = list(pairs(sides.side("ours"), sides.side("theirs"), 4, tmp_path / "cache", warm=warm))
    assert len(counted) == 4
    # The pair that is not counted fills a warm cache, on whichever side begins it.
    assert {found for _, found in sides.seen[2:]} == {warm}
    begun = [name for name, _ in sides.seen[2::2]]
    assert begun.count("ours") == begun.count("theirs") == 2


def test_every_benchmark_is_tried() -> None:
    assert {path.name for path in BENCHMARKS.glob("*.py")} == {*SMALL, *NEEDS_A_HOST}
