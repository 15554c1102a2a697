"""Labs of one name in two homes of one host, which share its boards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from journeys import slices
from simulated_world import FIRST, SYSTEM_URI, SimulatedHost

from emulator.adapters.simulated.gpus import board_at
from emulator.core.paths import Home
from emulator.lab.lab_files import LoadedLab


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
    """On libvirtds of their own, so that the labs share nothing but the boards."""
    return host.lab_file(slices(compute).replace(SYSTEM_URI, "embedded"))


def carved(host: SimulatedHost) -> tuple[bool, int, set[str]]:
    """Of the board: MIG mode, number of slices, UUIDs of vGPUs."""
    with host.gpus().store.change():
        pass
    board = board_at(host.gpus().store.look(), FIRST)
    return board.mig, len(board.instances), {str(item.uuid) for item in board.vgpus}
