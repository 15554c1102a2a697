"""The frequency of the host's time stamp counter, which guests with an emulated CPU use as their clock."""

from __future__ import annotations

import functools
import mmap
import platform
import time
from collections.abc import Callable
from pathlib import Path

CLOCK_SOURCES = Path("/sys/devices/system/clocksource/clocksource0/available_clocksource")
# uint64_t f(void): rdtsc; shl rdx, 32; or rax, rdx; ret
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")
# Both ends of the measurement are exact to well below a microsecond: about ten parts per million.
_MEASURE_SECONDS = 0.05
_READINGS = 20
# Largest accepted difference between two measurements; more means a counter that is emulated or changes its pace.
_TOLERANCE = 1e-4


@functools.cache
def tsc_khz() -> int | None:
    """The counter's frequency in kHz; None if the kernel itself does not trust it, or if it cannot be read (no x86, or
    code in memory is forbidden).

    Linux does not expose the frequency that it uses, so it is measured against CLOCK_MONOTONIC_RAW.
    """
    if platform.machine() != "x86_64" or "tsc" not in _clock_sources():
        return None
    try:
        read = _reader()
    except OSError:
        return None  # a hardened kernel forbids running memory that was written
    first, second = _measure(read), _measure(read)
    return round(first) if abs(first - second) <= _TOLERANCE * first else None


def _clock_sources() -> list[str]:
    try:
        return CLOCK_SOURCES.read_text().split()
    except OSError:
        return []


def _reader() -> Callable[[], int]:
    import ctypes

    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_RDTSC)
    function = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))

    def read() -> int:
        return int(function()) if not page.closed else 0  # the closure keeps the page alive

    return read


def _measure(read: Callable[[], int]) -> float:
    began, ticks_began = _reading(read)
    time.sleep(_MEASURE_SECONDS)
    ended, ticks_ended = _reading(read)
    return (ticks_ended - ticks_began) / (ended - began) * 1e6


def _reading(read: Callable[[], int]) -> tuple[float, int]:
    """Nanoseconds and ticks at one moment: the tightest of several readings, because any of them may be interrupted."""
    looks = []
    for _ in range(_READINGS):
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        ticks = read()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        looks.append((after - before, (before + after) / 2, ticks))
    _, moment, ticks = min(looks)
    return moment, ticks
