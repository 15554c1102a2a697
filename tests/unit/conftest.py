from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.core.paths import Home
from tests.support.shared_gpus import other_home
from tests.support.simulated_world import SIMULATED_GPUS, SimulatedHost


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    """A machine without GPUs, on which others have things with names like those of the lab."""
    made = SimulatedHost(tmp_path / "host")
    made.seed_foreign()
    yield made
    made.close()


@pytest.fixture
def gpu_host(tmp_path: Path) -> Iterator[SimulatedHost]:
    made = SimulatedHost(tmp_path / "host", gpus=SIMULATED_GPUS)
    made.seed_foreign()
    yield made
    made.close()


@pytest.fixture
def other(gpu_host: SimulatedHost) -> Home:
    """Another home on the machine with GPUs."""
    return other_home(gpu_host)
