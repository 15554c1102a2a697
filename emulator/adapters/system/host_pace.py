"""Measures what this host can: cores, load, pressure, and a fixed piece of work."""

from __future__ import annotations

import hashlib
import os
import re
import time
from pathlib import Path

from emulator.core.waiting.pace import PaceReadings

_PRESSURE = Path("/proc/pressure/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
# About 50 ms on a server core: rounds of a function that no processor has instructions of its own for.
_ROUNDS = 2000
_BLOCK = b"hyperscaler" * 1490


def read_pace(*, pressure: Path = _PRESSURE, quota: Path = _QUOTA) -> PaceReadings:
    """The host as it is now; takes about a tenth of a second, more on a busy one."""
    cpu, wall = time.thread_time(), time.perf_counter()
    _work()
    cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
    return PaceReadings(
        cores=_cores(quota),
        load=os.getloadavg()[0],
        pressure=_pressure(pressure),
        work_cpu=cpu,
        work_wall=wall,
    )


def _work() -> None:
    digest = b""
    for _ in range(_ROUNDS):
        digest = hashlib.blake2b(_BLOCK + digest).digest()
        sum(digest * 64)


def _cores(quota: Path) -> float:
    """Those that this process may run on, or fewer by the quota of its cgroup (`max 100000` is none)."""
    allowed = float(len(os.sched_getaffinity(0)))
    match = re.fullmatch(r"(\d+) ([1-9]\d*)\s*", _text(quota))
    return min(allowed, int(match[1]) / int(match[2])) if match else allowed


def _pressure(path: Path) -> float | None:
    """`some avg10` of the kernel's pressure stall information; None where it has none."""
    match = re.match(r"some avg10=(\d+(?:\.\d+)?) ", _text(path))
    return min(float(match[1]), 100.0) if match else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
