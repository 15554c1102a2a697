"""The directories with what users were handed: they go when access ends."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from emulator.core.progress import Reporter
from emulator.credentials.users import read_book
from emulator.lab.run import LabRun


def forget_handout(directory: Path, reporter: Reporter) -> None:
    """Remove what was handed out. Failing that, warn: the nodes refuse it all the same."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        reporter.warn(f"{directory} cannot be removed: {error.strerror or error}; remove it by hand")


def forget_ended(run: LabRun) -> None:
    """Remove what was handed to users whose access has ended."""
    for user in read_book(run.paths.access).at(time.time()).users:
        if user.revoked:
            forget_handout(run.paths.handouts / user.name, run.reporter)
