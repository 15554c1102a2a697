"""Carving 8 GPUs into 56 slices with the simulated backend: seconds, all of it our own code (bound 1 s).

    python benchmarks/bench_carve.py [--runs 5]

Through the adapter that is used on real GPUs; state is kept in files, as in a lab.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from emulator.adapters.nvidia.nvml import NvmlGpus
from emulator.adapters.simulated.gpus import SimulatedGpu, SimulatedGpus
from emulator.gpu.model import Placement
from emulator.gpu.ports import VgpuFramework

SIMULATED_GPUS = [
    SimulatedGpu(f"GPU-{number}", "NVIDIA A100-SXM4-80GB", f"0000:{65 + number:02x}:00.0") for number in range(8)
]


def carve() -> float:
    with tempfile.TemporaryDirectory() as directory:
        gpus = SimulatedGpus(Path(directory), SIMULATED_GPUS, framework=VgpuFramework.MDEV)
        take_out = gpus.install()
        try:
            nvml = NvmlGpus()
            for gpu in SIMULATED_GPUS:
                nvml.set_mig_mode(gpu.pci_address, enabled=True)
            started = time.perf_counter()
            for gpu in SIMULATED_GPUS:
                profile = next(item for item in nvml.profiles(gpu.pci_address) if item.name == "1g.10gb")
                for start in range(7):
                    nvml.create_instance(gpu.pci_address, profile.gi_profile_id, Placement(start, 1))
            spent = time.perf_counter() - started
            assert sum(len(nvml.instances(gpu.pci_address)) for gpu in SIMULATED_GPUS) == 56
            return spent
        finally:
            take_out()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    print(
        "compared: with nothing; the product's adapter on the simulated driver library, state in files on a fresh home"
    )
    carve()  # imports and page cache
    times = [carve() for _ in range(runs)]
    print(f"56 slices: median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f} s (bound 1 s)")


if __name__ == "__main__":
    main()
