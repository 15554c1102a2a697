"""How long a lab file of 500 nodes takes to read and judge; the aim is at most 1 s on the smallest host.

    python benchmarks/bench_validate.py [--nodes 500] [--runs 5] [--json]

Prints the best and the median run, and the time of the first one, which also pays for imports of the schema checker.
Each node has a partition of its own, so that the file is long as well as wide.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

GPUS = 8
WORKERS = 18


def lab_text(nodes: int) -> str:
    """A dual-stack lab with `nodes` nodes in all and one partition for each compute node."""
    compute = nodes - WORKERS - 2
    devices = "\n".join(
        f"      - {{id: GPU-{n}, pci_address: '0000:{0x40 + n:02x}:00.0', model: NVIDIA A100-SXM4-80GB}}"
        for n in range(GPUS)
    )
    partitions = "\n".join(
        f"        - name: part-{n}\n          nodes:\n            - hpc-compute-{n}" for n in range(1, compute + 1)
    )
    return f"""version: "1.0"
metadata: {{name: large, description: generated}}
global:
  networks:
    hpc_network: {{subnet: 10.50.0.0/20, bridge: hpc0}}
    cloud_network: {{subnet: 10.51.0.0/20, bridge: cloud0}}
  gpu_allocation:
    backend: simulated
    devices:
{devices}
    mig_slices: {{hpc: 38, cloud: {WORKERS}}}
clusters:
  hpc:
    controller: {{cpu_cores: 4, memory_gb: 8}}
    compute_nodes: {{count: {compute}, cpu_cores: 8, memory_gb: 16, ip_range: 10.50.1.0-10.50.9.255}}
    slurm_config:
      default_partition: part-1
      partitions:
{partitions}
  cloud:
    control_plane: {{cpu_cores: 4, memory_gb: 8}}
    worker_nodes:
      gpu_workers: {{count: {WORKERS}, cpu_cores: 8, memory_gb: 16, gpu_enabled: true}}
    kubernetes_config: {{pod_subnet: 172.16.0.0/12}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    text = lab_text(options.nodes)
    times = []
    for _ in range(options.runs + 1):
        start = time.perf_counter()
        from emulator.labfile.load import parse_spec

        spec, report = parse_spec(text, file="large.yaml")
        times.append(time.perf_counter() - start)
        assert spec is not None, [each.render() for each in report.errors]
        assert len(spec.nodes) == options.nodes
    first, *rest = times
    figures = {
        "nodes": options.nodes,
        "lines": text.count("\n"),
        "first_s": round(first, 3),
        "best_s": round(min(rest), 3),
        "median_s": round(statistics.median(rest), 3),
    }
    if options.json:
        print(json.dumps(figures))
    else:
        print("compared: with nothing; the first run pays for imports, best and median are of the runs after it")
        print(", ".join(f"{key} {value}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
