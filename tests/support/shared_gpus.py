"""Labs of one name in two homes of one host, which share its GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from emulator.adapters.simulated.gpus import gpu_at
from emulator.core.paths import Home
from emulator.lab.lab_files import LoadedLab
from tests.support.journeys import slices
from tests.support.simulated_world import FIRST, SYSTEM_URI, SimulatedHost


def other_home(host: SimulatedHost) -> Home:
    home = Home(host.root / "other")
    home.root.mkdir(mode=0o700)
    return home


@contextmanager
def within(host: SimulatedHost, home: Home) -> Iterator[None]:
    """Commands are given with another HYPERSCALER_HOME."""
    host.home = home
    try:
        yield
    finally:
        host.home = host.default_home


def lab_of(host: SimulatedHost, compute: int = 1) -> LoadedLab:
    """On libvirtds of their own, so that the labs share nothing but the GPUs."""
    return host.lab_file(slices(compute).replace(SYSTEM_URI, "embedded"))


def carved(host: SimulatedHost) -> tuple[bool, int, set[str]]:
    """Of the GPU: MIG mode, number of slices, UUIDs of vGPUs."""
    with host.gpus().store.change():
        pass
    gpu = gpu_at(host.gpus().store.look(), FIRST)
    return gpu.mig, len(gpu.instances), {str(item.uuid) for item in gpu.vgpus}
