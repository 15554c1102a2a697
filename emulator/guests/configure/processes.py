"""Ends everything that a playbook run started.

Ansible's workers and ssh's connection masters put themselves into sessions of their own, so neither a process group
nor the parent's id finds them all. Two things do: a tag in the environment, which every child inherits, and the
directory of the control sockets, which ssh names in its arguments and its masters in their process title.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

RUN_TAG = "HYPERSCALER_RUN"
_PROC = Path("/proc")


def processes_of_run(tag: str, control_dir: Path, *, proc: Path = _PROC) -> tuple[int, ...]:
    """Process ids (never our own) with `HYPERSCALER_RUN=<tag>` in their environment or `control_dir` in their title."""
    return _processes(f"{RUN_TAG}={tag}".encode(), control_dir, proc)


def processes_left(directory: Path, *, proc: Path = _PROC) -> tuple[int, ...]:
    """Process ids of all runs in the private directory `directory`: those that have it as HOME, and ssh's masters."""
    return _processes(b"HOME=" + os.fsencode(directory), directory / "cp", proc)


def _processes(variable: bytes, control_dir: Path, proc: Path) -> tuple[int, ...]:
    inside = os.fsencode(control_dir) + b"/"
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            ours = variable in (entry / "environ").read_bytes().split(b"\0")
            ours = ours or inside in (entry / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile, or another user owns it
            continue
        if ours:
            found.append(int(entry.name))
    return tuple(found)


def end_leftovers(directory: Path) -> set[int]:
    """End processes that killed runs left at work in the private directory `directory`; returns their ids.

    The caller holds the lab's lock, so nothing that works there now belongs to a live run.
    """
    return _end(lambda: processes_left(directory), (signal.SIGKILL, signal.SIGKILL), grace=2.0)


def end_run(tag: str, control_dir: Path, *, grace: float = 2.0) -> set[int]:
    """Ask every process of the run to end, and kill what is left after `grace` seconds; their process ids."""
    return _end(lambda: processes_of_run(tag, control_dir), (signal.SIGTERM, signal.SIGKILL), grace=grace)


def _end(look: Callable[[], tuple[int, ...]], signals: Sequence[signal.Signals], *, grace: float) -> set[int]:
    """Send the signals one after the other, each to what `look` finds then; what was found."""
    asked: set[int] = set()
    for number in signals:
        alive = look()
        if not alive:
            break
        asked.update(alive)
        for pid in alive:
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and look():
            time.sleep(0.05)
    return asked


def reap(pids: set[int], *, patience: float = 1.0) -> None:
    """Reap the ones that are our own children, so that a long-running caller has no zombies."""
    deadline = time.monotonic() + patience
    left = set(pids)
    while left and time.monotonic() < deadline:
        for pid in tuple(left):
            try:
                done, _status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done = pid
            if done:
                left.discard(pid)
        if left:
            time.sleep(0.02)
