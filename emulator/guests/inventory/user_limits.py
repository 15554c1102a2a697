"""What one user may have of a node: space on its disk, and processes in jobs. Pure."""

from __future__ import annotations

# An inode for every 16 KiB, as mke2fs makes them.
_KIB_PER_INODE = 16
_FEW_USERS = 4
_FEWEST_PROCESSES = 256
_MOST_PROCESSES = 16384


def user_quota(disk_gib: int, users: int) -> dict[str, int]:
    """Hard limits of each user on a node's root file system, `kib` and `inodes`.

    All users together get half of the disk, so that they cannot fill it: the rest is the system's, its database's and
    its journal's. A few of them get a quarter of that half each, so that the limit does not shrink with the first.

    Args:
        disk_gib: size of the disk.
        users: accounts that share it.
    """
    kib = disk_gib * 2**20 // 2 // max(users, _FEW_USERS)
    return {"kib": kib, "inodes": kib // _KIB_PER_INODE}


def job_processes(memory_mib: int) -> int:
    """How many processes and threads one user's jobs may have on a compute node.

    The kernel allows about 8 for each MiB (`kernel.threads-max`), and systemd gives 15 % of them to all of slurmd's
    jobs: at half a process for each MiB one user takes less than half of that.
    """
    return min(max(memory_mib // 2, _FEWEST_PROCESSES), _MOST_PROCESSES)
