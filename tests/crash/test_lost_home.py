"""The whole home directory is lost, with journals and the GPU ledger: the GPUs and guests themselves tell."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from emulator.adapters.simulated.gpus import gpu_at
from emulator.core.errors import HyperscalerError, UsageError
from emulator.gpu.ports import VgpuFramework
from emulator.lab.lab_files import LoadedLab
from tests.support.recording_reporter import RecordingReporter
from tests.support.simulated_world import (
    FIRST,
    SECOND,
    SIMULATED_GPUS,
    SYSTEM_URI,
    SimulatedHost,
    comparable,
    gpu_section,
    lab_text,
)
from tests.support.stop_points import find_stops, in_sequence


def lab_of(host: SimulatedHost) -> LoadedLab:
    return host.lab_file(lab_text(hypervisor=SYSTEM_URI, extra=gpu_section()))


def lose_home(host: SimulatedHost) -> None:
    shutil.rmtree(host.home.root)
    host.home.root.mkdir(mode=0o700)


def carved(host: SimulatedHost) -> dict[str, tuple[str, int, int]]:
    """Of each GPU the driver, and how many slices and vGPUs there are."""
    with host.gpus().store.change():
        pass
    state = host.gpus().store.look()
    gpus = {address: gpu_at(state, address) for address in (FIRST, SECOND)}
    return {key: (gpu.driver, len(gpu.instances), len(gpu.vgpus)) for key, gpu in gpus.items()}


def test_destroy_takes_slices_and_gpus_and_tells_what_nobody_knows(with_gpus: SimulatedHost) -> None:
    host, told = with_gpus, RecordingReporter()
    lab = lab_of(host)
    before = carved(host)
    host.provision(lab)
    assert carved(host) == {FIRST: ("vfio-pci", 0, 0), SECOND: ("nvidia", 1, 1)}
    lose_home(host)
    with pytest.raises(HyperscalerError, match="something of it may be left on the GPUs") as caught:
        host.destroy(reporter=told)
    assert caught.value.exit_code == 1
    assert carved(host) == before
    [warning] = told.warnings
    for text in (SECOND, "MIG mode on", f"nvidia-smi -i {SECOND} -mig 0", f"sriov-manage -d {SECOND}"):
        assert text in warning
    assert FIRST not in warning
    with pytest.raises(UsageError, match="there is no lab demo"):
        host.destroy()
    assert all(check.ok for check in host.provision(lab).checks)


def test_nothing_is_told_once_mig_mode_and_virtual_functions_are_off(with_gpus: SimulatedHost) -> None:
    """A destroy that was cut off, and the commands that it told given before it goes on."""
    host, told = with_gpus, RecordingReporter()
    host.provision(lab_of(host))
    lose_home(host)
    with pytest.raises(HyperscalerError):
        host.destroy()
    gpus = host.opened_gpus()
    with gpus.nvml.released():
        gpus.sriov.disable(SECOND)
    gpus.nvml.set_mig_mode(SECOND, enabled=False)
    (host.home.lab("demo").root).mkdir(parents=True)
    host.destroy(reporter=told)
    assert not told.warnings


def test_slices_of_others_on_the_gpu_stay(with_gpus: SimulatedHost) -> None:
    host = with_gpus
    host.provision(lab_of(host))
    gpus = host.opened_gpus()
    profile = next(item for item in gpus.nvml.profiles(SECOND) if item.name == "1g.10gb")
    used = {item.placement.start for item in gpus.nvml.instances(SECOND)}
    place = next(place for place in profile.placements or () if place.start not in used)
    gpus.nvml.create_instance(SECOND, profile.gi_profile_id, place)
    lose_home(host)
    with pytest.raises(HyperscalerError):
        host.destroy()
    assert [item.placement for item in host.opened_gpus().nvml.instances(SECOND)] == [place]


def test_provision_takes_them_over_and_destroy_still_tells(with_gpus: SimulatedHost) -> None:
    host, told = with_gpus, RecordingReporter()
    lab = lab_of(host)
    before = carved(host)
    host.provision(lab)
    lose_home(host)
    # The GPU that a guest has as a whole is out of the driver's sight: nobody but the guest tells of it.
    host.provision(lab)
    assert host.plan(lab).is_empty
    with pytest.raises(HyperscalerError, match="may be left"):
        host.destroy(reporter=told)
    assert carved(host) == before
    assert len(told.warnings) == 1


def test_it_can_be_stopped_anywhere(with_gpus: SimulatedHost) -> None:
    host = with_gpus
    with in_sequence():
        before = carved(host)
        host.provision(lab_of(host))
        lose_home(host)
        lost = host.save()

        def ended() -> None:
            with pytest.raises(HyperscalerError, match="may be left"):
                host.destroy()

        ended()
        after = comparable(host.save(), images=False)
        host.restore(lost)
        stops = find_stops(host, ended)
        for key, machine in stops.states.items():
            host.restore(machine)
            try:
                ended()
            except UsageError:
                assert not host.home.lab("demo").root.exists(), stops.where(key)
            assert carved(host) == before, stops.where(key)
            assert comparable(host.save(), images=False) == after, stops.where(key)


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[SimulatedHost]:
    host = SimulatedHost(tmp_path / "host", gpus=SIMULATED_GPUS, framework=VgpuFramework.VENDOR_VFIO)
    yield host
    host.close()


def test_vgpus_without_uuids_are_told(vendor: SimulatedHost) -> None:
    """In the vendor VFIO framework nothing tells which slice a vGPU took: nothing is removed, everything is named."""
    host, told = vendor, RecordingReporter()
    host.provision(lab_of(host))
    lose_home(host)
    with pytest.raises(HyperscalerError, match="may be left"):
        host.destroy(reporter=told)
    assert carved(host) == {FIRST: ("nvidia", 0, 0), SECOND: ("nvidia", 1, 1)}
    [warning] = told.warnings
    for text in ("a vGPU on 0000:42:00.", "current_vgpu_type", "1g.10gb at slice", "nvidia-smi mig -i", "MIG mode on"):
        assert text in warning
