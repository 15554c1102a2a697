"""What others make in the place of a slice that an interrupted delete has freed is theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emulator.adapters.simulated.gpus import gpu_at
from emulator.core.errors import HyperscalerError
from emulator.gpu.ports import VgpuFramework
from tests.support.journeys import slices
from tests.support.simulated_world import FIRST, SIMULATED_GPUS, SimulatedHost
from tests.support.stop_points import cut, find_stops, in_sequence, stop_at

FRAMEWORKS = (VgpuFramework.MDEV, VgpuFramework.VENDOR_VFIO)


@contextmanager
def machine(root: Path, framework: VgpuFramework) -> Iterator[SimulatedHost]:
    host = SimulatedHost(root / "host", gpus=SIMULATED_GPUS[:1], framework=framework)
    try:
        with in_sequence():
            yield host
    finally:
        host.close()


def starts(host: SimulatedHost) -> list[int]:
    with host.gpus().store.change():
        pass
    return [item.start for item in gpu_at(host.gpus().store.look(), FIRST).instances]


def carve(host: SimulatedHost, start: int) -> None:
    gpus = host.opened_gpus()
    profile = next(item for item in gpus.nvml.profiles(FIRST) if item.name == "1g.10gb")
    place = next(place for place in profile.placements or () if place.start == start)
    gpus.nvml.create_instance(FIRST, profile.gi_profile_id, place)


def is_freed(host: SimulatedHost) -> bool:
    """The slice is gone, its claim is struck out, the journal does not say so yet."""
    owners = host.gpu_ledger().read()
    opened = any(key.startswith("gpu-instance/") and item.open_action for key, item in host.state().resources.items())
    return opened and not starts(host) and not any("@" in key for key in owners)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_slice_made_by_others_in_its_place_stays(tmp_path: Path, framework: VgpuFramework) -> None:
    with machine(tmp_path, framework) as host:
        lab = host.lab_file(slices(1))
        host.provision(lab)
        done = host.save()
        [start] = starts(host)
        stops = find_stops(host, host.destroy)
        tried = 0
        for number, name in enumerate(stops.names):
            if not name.startswith("after ledger"):
                continue
            host.restore(done)
            stop_at(host, host.destroy, number, cut)
            if not is_freed(host):
                continue
            tried += 1
            carve(host, start)
            freed = host.save()
            host.destroy()
            assert starts(host) == [start], name
            host.restore(freed)
            host.provision(lab)
            assert len(starts(host)) == 2, name
            host.destroy()
            assert starts(host) == [start], name
        assert tried


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_without_a_ledger_a_destroy_that_failed_or_was_stopped_goes_on(
    tmp_path: Path, framework: VgpuFramework
) -> None:
    """The handle tells until a delete has begun; the claim that is made before tells from then on."""
    with machine(tmp_path, framework) as host:
        host.provision(host.lab_file(slices(1)))
        host.default_home.gpu_owners.unlink()
        lost = host.save()
        stops = find_stops(host, host.destroy)
        for key, state in stops.states.items():
            host.restore(state)
            if host.home.lab("demo").root.exists():
                host.destroy()
            gpu = gpu_at(host.gpus().store.look(), FIRST)
            assert (gpu.instances, gpu.vgpus, gpu.mig) == ([], [], False), stops.where(key)
        host.restore(lost)
        with host.gpus().store.change() as gpus:
            gpu_at(gpus, FIRST).vgpus[0].held = True
        with pytest.raises(HyperscalerError):
            host.destroy()
        with host.gpus().store.change() as gpus:
            gpu_at(gpus, FIRST).vgpus[0].held = False
        host.destroy()
        assert starts(host) == []
