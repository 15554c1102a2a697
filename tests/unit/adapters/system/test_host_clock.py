"""The frequency of the host's time stamp counter."""

from __future__ import annotations

import mmap
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.adapters.system import host_clock
from emulator.adapters.system.host_clock import tsc_khz


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    tsc_khz.cache_clear()
    yield
    tsc_khz.cache_clear()


def test_it_is_what_the_processor_says_or_nothing() -> None:
    """Where the kernel has no frequency scaling, /proc/cpuinfo names the counter's own frequency."""
    found = tsc_khz()
    trusted = platform.machine() == "x86_64" and "tsc" in host_clock.CLOCK_SOURCES.read_text().split()
    assert (found is not None) == trusted
    if found is not None and not Path("/sys/devices/system/cpu/cpu0/cpufreq").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        mhz = next(float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz"))
        assert found == pytest.approx(mhz * 1000, rel=1e-3)


def test_a_counter_that_the_kernel_does_not_trust_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "available_clocksource"
    sources.write_text("hpet acpi_pm \n")
    monkeypatch.setattr(host_clock, "CLOCK_SOURCES", sources)
    assert tsc_khz() is None
    sources.unlink()
    tsc_khz.cache_clear()
    assert tsc_khz() is None


def test_a_host_that_runs_no_code_in_memory_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_more: object) -> mmap.mmap:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("mmap.mmap", refuse)
    assert tsc_khz() is None


def test_a_counter_that_changes_its_pace_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([2_100_000.0, 2_000_000.0])
    monkeypatch.setattr(host_clock, "_measure", lambda _read: next(rates))
    assert tsc_khz() is None
