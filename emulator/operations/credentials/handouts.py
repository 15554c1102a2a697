"""The directories with what users were handed: they go when access ends."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from emulator.core.gateway.names import Door
from emulator.core.progress import Reporter
from emulator.credentials.users import read_book
from emulator.lab.run import LabRun
from emulator.operations.credentials.archive import pack


def forget_handout(directory: Path, reporter: Reporter) -> None:
    """Remove what was handed out. Failing that, warn: the nodes refuse it all the same."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        reporter.warn(f"{directory} cannot be removed: {error.strerror or error}; remove it by hand")


def door_for(run: LabRun) -> Door | None:
    """The host's gateway, if users of this lab come in by it.

    Says so where they should, and there is none.
    """
    if not run.spec.access.gateway:
        return None
    door = run.env.door()
    if door is None:
        run.reporter.warn(
            "this host's gateway is off, so that what is handed out works for root of this host only: run `hyperscaler"
            f" host enable-gateway`, then `hyperscaler access add {run.name} USER` again"
        )
    return door


def pack_handouts(run: LabRun) -> None:
    """Write the archive of each user with access anew."""
    names = [node.name for node in run.spec.nodes]
    for user in read_book(run.paths.access).at(time.time()).users:
        if not user.revoked:
            mine = [name for name in names if user.may_use(name)]
            pack(run.paths.handouts / user.name, run.name, user.name, next(iter(mine), "NODE"))


def forget_ended(run: LabRun) -> None:
    """Remove what was handed to users whose access has ended."""
    for user in read_book(run.paths.access).at(time.time()).users:
        if user.revoked:
            forget_handout(run.paths.handouts / user.name, run.reporter)
