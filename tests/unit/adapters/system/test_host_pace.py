"""What is read of the host for its pace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from emulator.adapters.system.host_pace import read_pace

AFFINITY = len(os.sched_getaffinity(0))


def test_this_host_is_measured() -> None:
    readings = read_pace()
    assert 0 < readings.cores <= AFFINITY
    assert readings.load >= 0
    assert 0 < readings.work_cpu <= readings.work_wall * 1.1


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", AFFINITY),
        ("50000 100000\n", 0.5),
        ("900000000 100000\n", AFFINITY),
        ("50000 0\n", AFFINITY),
        ("nonsense", AFFINITY),
    ],
)
def test_the_quota_of_a_cgroup_counts(tmp_path: Path, text: str, cores: float) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert read_pace(quota=tmp_path / "cpu.max").cores == cores


@pytest.mark.parametrize(
    ("text", "pressure"),
    [
        ("some avg10=12.50 avg60=3.00 avg300=1.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", 12.5),
        ("some avg10=1e9 ", None),
        ("\xff\xfe", None),
    ],
)
def test_the_kernel_s_pressure_counts(tmp_path: Path, text: str, pressure: float | None) -> None:
    (tmp_path / "cpu").write_text(text, encoding="latin-1")
    assert read_pace(pressure=tmp_path / "cpu").pressure == pressure


def test_a_kernel_without_pressure_or_quota_is_none_of_them(tmp_path: Path) -> None:
    readings = read_pace(pressure=tmp_path / "absent", quota=tmp_path / "absent")
    assert readings.pressure is None
    assert readings.cores == AFFINITY
