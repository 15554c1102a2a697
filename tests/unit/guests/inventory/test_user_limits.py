"""What one user may have of a node."""

from __future__ import annotations

import pytest

from emulator.guests.inventory.user_limits import job_processes, user_quota


@pytest.mark.parametrize("disk", [2, 8, 20, 65536])
@pytest.mark.parametrize("users", [1, 2, 4, 5, 30, 1000])
def test_all_users_together_have_half_of_the_disk(disk: int, users: int) -> None:
    quota = user_quota(disk, users)
    assert 0 < quota["kib"] * users <= disk * 2**20 // 2
    assert 0 < quota["inodes"] * users <= disk * 2**20 // 16 // 2


def test_the_first_users_do_not_take_from_each_other() -> None:
    assert user_quota(8, 1) == user_quota(8, 4) == {"kib": 2**20, "inodes": 2**16}
    assert user_quota(8, 8) == {"kib": 2**19, "inodes": 2**15}


@pytest.mark.parametrize(
    ("memory", "processes"), [(256, 256), (1024, 512), (2048, 1024), (65536, 16384), (4194304, 16384)]
)
def test_processes_grow_with_memory(memory: int, processes: int) -> None:
    assert job_processes(memory) == processes


@pytest.mark.parametrize("memory", [1024, 2048, 8192])
def test_two_users_cannot_take_all_tasks_of_the_jobs(memory: int) -> None:
    # kernel.threads-max is one task for each 128 KiB that the kernel manages; systemd's DefaultTasksMax 15 % of it.
    assert 2 * job_processes(memory) <= memory * 8 * 0.95 * 0.15
