"""Whether the kernel considers its clock synchronised, by adjtimex(2)."""

from __future__ import annotations

import sys

# `modes` of struct timex (<linux/timex.h>); 0 changes nothing and needs no privilege.
_ONLY_ASK = 0
# Returned by adjtimex while STA_UNSYNC is set (no daemon sets the clock yet, or none does any more) or the clock is
# otherwise unreliable. The kernel itself sets STA_UNSYNC if the clock was not corrected for some hours.
_TIME_ERROR = 5
# struct timex has 208 bytes with 64-bit words; a larger buffer does no harm.
_TIMEX_BYTES = 512


def clock_synchronised() -> bool | None:
    """Whether the kernel considers its clock synchronised; None if it does not say (no Linux, or not permitted).

    Also False with a chronyd without `rtcsync`, which keeps the clock without informing the kernel.
    """
    if not sys.platform.startswith("linux"):
        return None
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    ctypes.memmove(timex, ctypes.byref(ctypes.c_int(_ONLY_ASK)), ctypes.sizeof(ctypes.c_int))
    state = int(libc.adjtimex(timex))
    return None if state < 0 else state != _TIME_ERROR
