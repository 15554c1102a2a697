"""Forks that cost little, for tests that branch thousands of times.

A fork copies the page table of its process: with all tests collected that are a hundred thousand entries of 4 KiB, ten
milliseconds in the original and as much in the copy. Huge pages have one entry for each 2 MiB.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from pathlib import Path

HUGE = 2 << 20
MADV_COLLAPSE = 25
"""Since Linux 6.1; it works whatever `/sys/kernel/mm/transparent_hugepage/enabled` says."""


def use_huge_pages() -> None:
    """Put what this process holds on huge pages; where the kernel cannot, forks take longer and are the same.

    A page that is written while a copy shares it is split again, so this is for the beginning of many forks.
    """
    gc.collect()
    libc = ctypes.CDLL(None)
    for start, end in _heaps():
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_COLLAPSE)


def _heaps() -> Iterator[tuple[int, int]]:
    """Where private memory of no file is, as whole huge pages."""
    for line in Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").splitlines():
        addresses, permissions, _offset, _device, _inode, *name = line.split()
        if permissions == "rw-p" and name in ([], ["[heap]"]):
            first, last = (int(address, 16) for address in addresses.split("-"))
            start, end = -(-first // HUGE) * HUGE, last // HUGE * HUGE
            if start < end:
                yield start, end
