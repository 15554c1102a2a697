from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.gpu.ports import VgpuFramework
from tests.support.gpu_lab import GpuLab, gpu_machine


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[GpuLab]:
    """Two simulated A100s with the mdev framework."""
    with gpu_machine(tmp_path) as made:
        yield made


@pytest.fixture(params=[VgpuFramework.MDEV, VgpuFramework.VENDOR_VFIO], ids=str)
def any_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[GpuLab]:
    """The same in both frameworks."""
    with gpu_machine(tmp_path, framework=request.param) as made:
        yield made
