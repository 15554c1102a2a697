"""What the kernel knows of its clock: whether a time service has told it that the time is right (adjtimex(2))."""

from __future__ import annotations

import sys

# `modes` of struct timex (<linux/timex.h>); 0 changes nothing, and anybody may ask.
_ONLY_ASK = 0
# What adjtimex returns while STA_UNSYNC is set (a daemon has not set the clock yet, or no longer does), or the clock
# is otherwise not to be trusted. The kernel sets STA_UNSYNC itself once nobody has corrected the clock for some hours.
_TIME_ERROR = 5
# struct timex has 208 bytes with 64-bit words; more does no harm.
_TIMEX_BYTES = 512


def clock_synchronised() -> bool | None:
    """Whether the kernel counts its clock as synchronised; None where it does not say (no Linux, or not permitted).

    False also beside a chronyd without `rtcsync`, which keeps the clock and does not tell the kernel.
    """
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    ctypes.memmove(timex, ctypes.byref(ctypes.c_int(_ONLY_ASK)), ctypes.sizeof(ctypes.c_int))
    state = int(libc.adjtimex(timex))
    return None if state < 0 else state != _TIME_ERROR
