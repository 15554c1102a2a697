"""Makes and takes away a small lab many times on a real private libvirtd, and counts what stays behind.

Tiny guests (they halt at once) and simulated GPUs; everything that is done on the host is the product's own. Usage:

    make stress [CYCLES=200]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.real_lab import RealLab, host_traces

# Grows by a line or two with each command, as it is meant to.
AUDIT = "audit.jsonl"


@dataclass(frozen=True)
class Usage:
    """What this process and the host hold. `disk`: bytes below the labs' home; `memory`: resident MiB."""

    descriptors: int
    threads: int
    processes: int
    namespaces: int
    mounts: int
    disk: int
    memory: float

    @classmethod
    def now(cls, root: Path) -> Usage:
        status = Path("/proc/self/status").read_text()
        resident = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        return cls(
            len(list(Path("/proc/self/fd").iterdir())),
            threading.active_count(),
            sum(entry.name.isdigit() for entry in Path("/proc").iterdir()),
            len(list(Path("/run/netns").glob("*"))) if Path("/run/netns").is_dir() else 0,
            len(Path("/proc/self/mountinfo").read_text().splitlines()),
            sum(path.lstat().st_blocks * 512 for path in root.rglob("*") if path.is_file() and path.name != AUDIT),
            int(resident) / 1024,
        )

    def __str__(self) -> str:
        return (
            f"{self.descriptors} descriptors, {self.threads} threads, {self.processes} processes, "
            f"{self.namespaces} namespaces, {self.mounts} mounts, {self.disk / 1024:.0f} KiB on disk, "
            f"{self.memory:.0f} MiB resident"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=200)
    cycles = parser.parse_args().cycles
    if os.geteuid() != 0:
        sys.exit("the private libvirtd needs root")
    with tempfile.TemporaryDirectory(prefix="hyperscaler-stress-") as directory:
        root = Path(directory)
        lab = RealLab(root, f"stress{os.getpid()}", slices=True)
        made, gone = [], []
        for number in range(cycles + 1):
            started = time.monotonic()
            checks = lab.provision().checks
            if not all(check.ok for check in checks):
                sys.exit(f"cycle {number}: {[check for check in checks if not check.ok]}")
            made.append(time.monotonic() - started)
            started = time.monotonic()
            lab.destroy()
            gone.append(time.monotonic() - started)
            lab.close()
            if number == 0:  # libraries are loaded and the images are there: what follows must not add anything
                first, traces = Usage.now(root), host_traces(root, lab.namespace)
                print(f"after the first:  {first}", flush=True)
            elif number % 20 == 0:
                print(f"after {number:4d} more: {Usage.now(root)}", flush=True)
        last = Usage.now(root)
        left = host_traces(root, lab.namespace)
    print(
        f"{cycles} cycles: "
        f"provision {statistics.median(made):.2f} s, destroy {statistics.median(gone):.2f} s (medians); "
        f"last tenth against first tenth: {ratio(made):.2f} and {ratio(gone):.2f}"
    )
    print(f"peak of resident memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    # Of namespaces and mounts only the lab's own count, which `host_traces` sees: others may work on the host, too.
    leaks = [
        f"{name} {getattr(first, name)} -> {getattr(last, name)}"
        for name in ("descriptors", "threads", "disk")
        if getattr(last, name) > getattr(first, name)
    ]
    if left != traces:
        leaks.append(f"on the host: {left}")
    if last.memory > first.memory * 1.5:
        leaks.append(f"memory {first.memory:.0f} -> {last.memory:.0f} MiB")
    print("leaks: " + ("; ".join(leaks) or "none"))
    return 1 if leaks else 0


def ratio(seconds: list[float]) -> float:
    part = max(len(seconds) // 10, 1)
    return statistics.median(seconds[-part:]) / statistics.median(seconds[1 : part + 1])


if __name__ == "__main__":
    sys.exit(main())
