"""A copy of simulated GPUs to plan on."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from emulator.core.fs import left_by_the_dead

_SCRATCH = "hyperscaler-gpu-"


def scratch_copy(gpus: Path) -> Path:
    """Copy the state of simulated GPUs into a directory that goes when this process ends; empty when there are none.

    Copies that killed processes have left are removed.
    """
    for old in left_by_the_dead(Path(tempfile.gettempdir()), _SCRATCH, "-"):
        with suppress(FileNotFoundError):  # others plan and tidy up at the same time
            if old.lstat().st_uid == os.geteuid():
                shutil.rmtree(old, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    if gpus.is_dir():
        # Another command may be changing the GPUs: it replaces files whole, by others that exist for a moment.
        shutil.copytree(gpus, scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.new", "*.lock"))
    return scratch
