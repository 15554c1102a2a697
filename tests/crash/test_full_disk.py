"""No space left on the device, at every single write: the command ends with a clear error, and once there is space
again the lab goes on or goes away.
"""

from __future__ import annotations

import pytest

from emulator.core.errors import HyperscalerError
from tests.support.lossy_disk import FullDisk
from tests.support.stop_points import Sweep, key_of

MUCH = 10_000


@pytest.mark.parametrize("stays_full", [True, False], ids=["stays full", "for one write"])
@pytest.mark.parametrize("what", ["provision", "destroy"])
def test_a_full_disk_is_told_of_and_recovered_from(sweep: Sweep, what: str, stays_full: bool) -> None:
    start, command = (sweep.initial, sweep.provision) if what == "provision" else (sweep.done, sweep.destroy)
    sweep.host.restore(start)
    with FullDisk(sweep.host.root, MUCH, stays_full=True).installed() as counted:
        command()
    assert counted.count > 20
    seen: set[str] = set()
    told = 0
    for number in range(1, counted.count + 1):
        sweep.host.restore(start)
        with FullDisk(sweep.host.root, number, stays_full=stays_full).installed() as disk:
            try:
                command()
            except HyperscalerError as error:
                told += 1
                assert "space" in str(error) or "No space" in str(error), (disk.refused, str(error))
        assert disk.refused, f"write {number} was not reached"
        if (key := key_of(sweep.host.save())) not in seen:
            seen.add(key)
            sweep.assert_recovers(f"{what}: {', '.join(disk.refused)}", plan_again=False)
    print(f"{sweep.name}: {what}: {counted.count} writes without space, {told} errors, {len(seen)} distinct machines")
    assert told > 15
