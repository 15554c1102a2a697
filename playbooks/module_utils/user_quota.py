"""What each user may write on a node's root file system: quotas of the kernel, asked for and set without a program.

ext4 counts what every account owns, wherever it lies: home directories, /tmp and /var/tmp, the private /tmp of a job.
The images' file system has the feature; the limits come from the playbook. Standard library only, because it runs in
the guests.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Protocol, TypedDict

# quotactl_fd(2), from Linux 5.14 on; the number is the same on every architecture. libc has no function for it.
SYS_QUOTACTL_FD = 443
# <linux/quota.h>: QCMD(command, USRQUOTA), and which fields of `Record` are meant.
GET_QUOTA = 0x800007 << 8
SET_QUOTA = 0x800008 << 8
LIMITS = 1 | 4

# The file system has no quotas (an older image), they are not on, or the kernel is older than the call.
_WITHOUT = frozenset({errno.ESRCH, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOENT})


class Quota(TypedDict):
    """Hard limits of one user; there are no soft ones."""

    kib: int
    inodes: int


class NoQuotasError(Exception):
    """The file system does not count what its users own."""


class Record(ctypes.Structure):
    """`struct if_dqblk`: limits of space in KiB, use of space in bytes."""

    _fields_ = [
        ("space_hard", ctypes.c_uint64),
        ("space_soft", ctypes.c_uint64),
        ("space_used", ctypes.c_uint64),
        ("inodes_hard", ctypes.c_uint64),
        ("inodes_soft", ctypes.c_uint64),
        ("inodes_used", ctypes.c_uint64),
        ("space_time", ctypes.c_uint64),
        ("inodes_time", ctypes.c_uint64),
        ("valid", ctypes.c_uint32),
    ]


class Quotactl(Protocol):
    def __call__(self, command: int, uid: int, record: Record) -> int: ...


def kernel(path: str) -> Quotactl:
    """The system call for the file system that `path` is on; its result is 0 or an errno."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(command: int, uid: int, record: Record) -> int:
        place = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            done = libc.syscall(SYS_QUOTACTL_FD, place, command, ctypes.c_uint32(uid), ctypes.byref(record))
            return ctypes.get_errno() if done else 0
        finally:
            os.close(place)

    return call


def ensure_quota(uid: int, quota: Quota, quotactl: Quotactl, *, check: bool) -> bool:
    """Whether the user's limits differed; they are set unless `check`.

    Raises:
        NoQuotasError: the file system has none to set.
        OSError: the kernel refused.
    """
    record = Record()
    _ask(quotactl, GET_QUOTA, uid, record)
    wanted = (quota["kib"], 0, quota["inodes"], 0)
    if (record.space_hard, record.space_soft, record.inodes_hard, record.inodes_soft) == wanted:
        return False
    if not check:
        record.space_hard, record.space_soft, record.inodes_hard, record.inodes_soft = wanted
        record.valid = LIMITS
        _ask(quotactl, SET_QUOTA, uid, record)
    return True


def _ask(quotactl: Quotactl, command: int, uid: int, record: Record) -> None:
    error = quotactl(command, uid, record)
    if error in _WITHOUT:
        raise NoQuotasError
    if error:
        raise OSError(error, os.strerror(error), f"quota of uid {uid}")
