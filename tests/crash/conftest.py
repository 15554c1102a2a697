from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.simulated_world import SIMULATED_GPUS, SYSTEM_URI, SimulatedHost, gpu_section, lab_text
from tests.support.stop_points import Sweep, in_sequence

# A lab on a libvirtd of its own, and one on the host's libvirt with a slice of one GPU and the whole of another.
LABS = {
    "embedded": (lab_text(), ()),
    "gpus": (lab_text(hypervisor=SYSTEM_URI, extra=gpu_section()), SIMULATED_GPUS),
}


@pytest.fixture(scope="session")
def sweeps() -> dict[str, Sweep]:
    """The sweeps of this process by lab. Modules share them, and with them which machines were recovered from."""
    return {}


@pytest.fixture(scope="module", params=list(LABS))
def sweep(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, sweeps: dict[str, Sweep]
) -> Iterator[Sweep]:
    name = request.param
    text, gpus = LABS[name]
    with in_sequence():
        if name not in sweeps:
            host = SimulatedHost(tmp_path_factory.mktemp(name) / "host", gpus=gpus)
            sweeps[name] = Sweep(name, host, host.lab_file(text))
        made = sweeps[name]
        made.lab = made.host.lab_file(text)
        try:
            yield made
        finally:
            made.host.close()


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[SimulatedHost]:
    host = SimulatedHost(tmp_path / "host")
    host.seed_foreign()
    yield host
    host.close()


@pytest.fixture
def with_gpus(tmp_path: Path) -> Iterator[SimulatedHost]:
    host = SimulatedHost(tmp_path / "host", gpus=SIMULATED_GPUS)
    host.seed_foreign()
    yield host
    host.close()
