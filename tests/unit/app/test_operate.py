"""Working on a lab that is there."""

from __future__ import annotations

import pytest
from simulated_world import SimulatedHost, lab_text

from emulator.app.operate import configure
from emulator.apply.handler import StopFlag
from emulator.errors import ConflictError
from emulator.progress import SilentReporter


def test_configure_takes_new_settings_but_no_other_machines(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    done = configure(host.world(), host.lab_file(lab_text()).spec, SilentReporter(), StopFlag())
    assert set(done.changed) == {"hpc-controller", "hpc-compute-1"}
    other = host.lab_file(lab_text().replace("memory_gb: 1", "memory_gb: 2", 1)).spec
    with pytest.raises(ConflictError, match=r"other machines than lab demo has \(hpc-") as caught:
        configure(host.world(), other, SilentReporter(), StopFlag())
    assert "provision" in caught.value.fix
