"""Ending everything that a playbook run started.

Ansible's workers and ssh's connection masters put themselves into sessions of their own, so neither a process group
nor the parent's id finds them all. Two things do: a tag in the environment, which every child inherits, and the
directory of the control sockets, which ssh names in its arguments and its masters in their process title.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

RUN_TAG = "HYPERSCALER_RUN"
_PROC = Path("/proc")


def processes_of_run(tag: str, control_dir: Path, *, proc: Path = _PROC) -> tuple[int, ...]:
    """Process ids (never our own) with `HYPERSCALER_RUN=<tag>` in their environment or `control_dir` in their title."""
    wanted = f"{RUN_TAG}={tag}".encode()
    inside = os.fsencode(control_dir) + b"/"
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            ours = wanted in (entry / "environ").read_bytes().split(b"\0")
            ours = ours or inside in (entry / "cmdline").read_bytes()
        except OSError:  # it ended meanwhile, or it is somebody else's
            continue
        if ours:
            found.append(int(entry.name))
    return tuple(found)


def end_leftovers(directory: Path, *, proc: Path = _PROC) -> set[int]:
    """End what a killed run left at work in the private directory `directory`: Ansible and its ssh masters.

    The caller holds the lab's lock, so whatever works there now belongs to nobody any more.
    """
    inventory = os.fsencode(directory / "inventory.yaml")
    ended: set[int] = set()
    for entry in proc.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if inventory in words and any(word.endswith(b"/ansible-playbook") for word in words):
                os.kill(int(entry.name), signal.SIGKILL)
                ended.add(int(entry.name))
        except OSError:  # it ended meanwhile, or it is somebody else's
            continue
    return ended | end_run("", directory / "cp")


def end_run(tag: str, control_dir: Path, *, grace: float = 2.0) -> set[int]:
    """Ask every process of the run to end, and kill what is left after `grace` seconds; their process ids."""
    asked: set[int] = set()
    for number in (signal.SIGTERM, signal.SIGKILL):
        alive = processes_of_run(tag, control_dir)
        if not alive:
            break
        asked.update(alive)
        for pid in alive:
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and processes_of_run(tag, control_dir):
            time.sleep(0.05)
    return asked


def reap(pids: set[int], *, patience: float = 1.0) -> None:
    """Collect those that were our own children, so that no dead process lingers beside a long-running caller."""
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
