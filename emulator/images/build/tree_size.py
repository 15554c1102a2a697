"""The size of a tree of files in an image."""

from __future__ import annotations

import os
from pathlib import Path

_BLOCK = 4096


def used_bytes(root: Path) -> int:
    """Bytes that the tree takes on a file system of 4 KiB blocks, each inode once; links and devices live in theirs."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for directory, _, names in os.walk(root):
        total += _BLOCK
        for name in names:
            status = os.lstat(os.path.join(directory, name))  # noqa: PTH118
            if status.st_nlink > 1:
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
            total += -(-min(status.st_size, status.st_blocks * 512 + _BLOCK) // _BLOCK) * _BLOCK
    return total
