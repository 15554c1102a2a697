"""Times the placement solver, and compares it with exhaustive search on 2,000 random questions.

    python benchmarks/bench_solver.py [--exhaustive 2000] [--fleets 20]

Targets on one slow core: 8 GPUs with 56 demands within 50 ms, 64 GPUs within 1 s. Exit status 1 when a target is
missed or an answer differs. Times are CPU seconds of this process; pattern tables are cold on each first call.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from emulator.gpu.placement import solver_patterns
from emulator.gpu.placement.demand import Demand, GpuState
from emulator.gpu.placement.solver import place
from tests.support import placement_brute_force as brute_force
from tests.support.placement_cases import A100, fleet_case, small_case

MIXES = (
    (8, {"1g.10gb": 56}, 0),
    (8, {"1g.10gb": 44, "1g.10gb+me": 4, "2g.20gb": 4}, 0),
    (8, {"1g.10gb": 24, "2g.20gb": 6, "3g.40gb": 4, "4g.40gb": 2}, 0),
    (8, {"1g.10gb": 20, "1g.10gb+me": 2, "1g.20gb": 1, "2g.20gb": 4, "3g.40gb": 4, "4g.40gb": 2}, 1),
    (64, {"1g.10gb": 160, "1g.10gb+me": 16, "1g.20gb": 8, "2g.20gb": 40, "3g.40gb": 30, "4g.40gb": 16}, 3),
    (64, {"1g.10gb": 192, "2g.20gb": 48, "3g.40gb": 32, "4g.40gb": 16}, 0),
    (64, {"1g.10gb": 449}, 0),
)
LIMITS = {8: 0.05, 64: 1.0}


def timed(gpus: Sequence[GpuState], demands: Sequence[Demand]) -> tuple[float, str, bool]:
    solver_patterns.patterns_of.cache_clear()
    solver_patterns.best_layout.cache_clear()
    start = time.process_time()
    answer = place(gpus, demands)
    seconds = time.process_time() - start
    if answer is None:
        return seconds, "does not fit", True
    told = f"{answer.gpus_touched} GPUs, {'proved' if answer.proved else 'not proved'}"
    return seconds, told, answer.proved


def mixes() -> bool:
    good = True
    for number, mix, whole in MIXES:
        demands = [Demand(f"{name}/{n}", name) for name, count in mix.items() for n in range(count)]
        demands += [Demand(f"whole/{n}", whole=True) for n in range(whole)]
        seconds, told, _ = timed([GpuState(f"GPU-{n}", A100) for n in range(number)], demands)
        good &= seconds <= LIMITS[number]
        print(f"{number:3} GPUs {len(demands):4} demands {seconds * 1e3:8.1f} ms  {told}")
    return good


def fleets(count: int) -> bool:
    good = True
    for number in LIMITS:
        found = [timed(*fleet_case(seed, number)) for seed in range(count)]
        seconds = [item[0] for item in found]
        good &= max(seconds) <= LIMITS[number]
        print(
            f"{number:3} GPUs, {count} random fleets: mean {sum(seconds) / count * 1e3:.1f} ms, "
            f"worst {max(seconds) * 1e3:.1f} ms, proved {sum(item[2] for item in found)}"
        )
    return good


def exhaustive(count: int) -> bool:
    differing = feasible = 0
    spent = 0.0
    for seed in range(count):
        gpus, demands, current = small_case(seed)
        start = time.process_time()
        answer = place(gpus, demands, current=current)
        spent += time.process_time() - start
        best = brute_force.best_score(gpus, demands, current)
        own = None if answer is None else brute_force.score(gpus, answer.assignments, current)
        feasible += best is not None
        if own != best:
            differing += 1
            print(f"seed {seed}: solver {own}, exhaustive {best}")
    print(f"{count} random questions, {feasible} feasible: {differing} differ; solver {spent:.2f} s in all")
    return differing == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Benchmark of the placement solver")
    parser.add_argument("--exhaustive", type=int, default=2000, help="questions compared with exhaustive search")
    parser.add_argument("--fleets", type=int, default=20, help="random fleets timed per size")
    options = parser.parse_args()
    print("compared: time with nothing (processor seconds, tables cold); answers with exhaustive search")
    results = [mixes(), fleets(options.fleets), exhaustive(options.exhaustive)]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
