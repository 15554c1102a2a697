"""What root's services may do as root: what their work needs, whatever they are made to do."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from enum import IntEnum


class Capability(IntEnum):
    """Of capabilities(7); the numbers are those of <linux/capability.h>."""

    CHOWN = 0
    """Give the gateway's account files to read."""
    DAC_OVERRIDE = 1
    """Write files of guests' users."""
    DAC_READ_SEARCH = 2
    """Read the program itself, which may lie in a closed directory of the user who ran `sudo`."""
    KILL = 5
    """Stop what runs as a guest's user."""
    SYS_RESOURCE = 24
    """Write in the blocks that a file system keeps for root when it is full for everybody else."""


# <linux/capability.h> and <linux/prctl.h>
_VERSION = 0x20080522
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_MOST = 64


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Set(ctypes.Structure):
    """32 of the capabilities; the kernel takes two of these."""

    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


def keep_only(wanted: Iterable[Capability]) -> None:
    """Give up, for good and for whatever this process starts, every capability that is not among the `wanted` ones. To
    be called before there are other threads. Users other than root have none.

    Raises:
        OSError: the kernel refuses.
    """
    if os.geteuid() != 0:
        return
    kept = sum(1 << each for each in set(wanted))
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(_MOST):
        if not kept >> number & 1:
            # Refused for numbers that this kernel does not have, and to a root without CAP_SETPCAP; what matters is
            # below, since this process was started with no_new_privs.
            libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header, sets = _Header(_VERSION, 0), (_Set * 2)()
    _require(libc.capget(ctypes.byref(header), sets))
    for place, each in enumerate(sets):
        each.permitted &= kept >> 32 * place & 0xFFFFFFFF
        each.effective, each.inheritable = each.permitted, 0
    _require(libc.capset(ctypes.byref(header), sets))


def _require(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"capabilities: {os.strerror(number)}")
