"""No space left on the device, at every single write: the command ends with a clear error, and once there is space
again the lab goes on or goes away.
"""

from __future__ import annotations

import pytest

from tests.support.branches import ENDED, TOLD, fill_disk
from tests.support.stop_points import Sweep


@pytest.mark.parametrize("stays_full", [True, False], ids=["stays full", "for one write"])
@pytest.mark.parametrize("what", ["provision", "destroy"])
def test_a_full_disk_is_told_of_and_recovered_from(sweep: Sweep, what: str, stays_full: bool) -> None:
    start, command = (sweep.initial, sweep.provision) if what == "provision" else (sweep.done, sweep.destroy)
    sweep.host.restore(start)
    met, writes = fill_disk(sweep.host, command, stays_full=stays_full)
    assert len(met.ends) == writes > 20, "a branch for each write"
    for end in met.ends:
        assert end.how == ENDED or (end.how == TOLD and "space" in end.said), end
    for key, machine in met.machines.items():
        (end, *_) = (end for end in met.ends if end.key == key)
        sweep.assert_recovers_from(key, machine, f"{what}: {end.place}: {end.said}")
    told = sum(end.how == TOLD for end in met.ends)
    print(f"{sweep.name}: {what}: {len(met.ends)} writes without space, {told} errors, {len(met.machines)} machines")
    assert told > 15
