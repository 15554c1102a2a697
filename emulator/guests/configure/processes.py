"""Ends everything that a playbook run started.

Ansible's workers and ssh's connection masters put themselves into sessions of their own, so neither a process group
nor the parent's id finds them all. Two things do, and neither is what a process says of itself in its arguments: a tag
in the environment, which every child inherits, and the control sockets, of which the kernel knows who has them open.
(ssh's masters overwrite their environment with their title.) Other users' processes are never looked for.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from emulator.core.trust.processes import PROC, end, holding, process_ids

RUN_TAG = "HYPERSCALER_RUN"
_SOCKET = re.compile(r"socket:\[([0-9]+)\]")


def search_for_run(tag: str, control_dir: Path, *, proc: Path = PROC) -> Search:
    """For processes with `HYPERSCALER_RUN=<tag>` in their environment, or with a control socket in `control_dir`."""
    return Search(f"{RUN_TAG}={tag}".encode(), control_dir, proc)


def search_for_left(directory: Path, *, proc: Path = PROC) -> Search:
    """For processes of all runs in the private directory `directory`: those that have it as HOME, and ssh's masters."""
    return Search(b"HOME=" + os.fsencode(directory), control_directory(directory), proc)


def control_directory(directory: Path) -> Path:
    """Where the last run in the private directory `directory` had its control sockets: in it, or where the link leads
    that a run leaves whose sockets did not fit there."""
    near = directory / "cp"
    return near.readlink() if near.is_symlink() else near


class Search:
    """Looks for this user's processes that have a variable in their environment, or a unix socket below a directory."""

    def __init__(self, variable: bytes, control_dir: Path, proc: Path) -> None:
        self._variable, self._proc = variable, proc
        self._inside = os.fsencode(control_dir) + b"/"

    def processes(self) -> tuple[int, ...]:
        """Ids of those that are there now, never our own."""
        sockets: dict[int, frozenset[int]] = {}
        found = (pid for pid in process_ids(proc=self._proc) if self.is_ours(pid, sockets))
        return tuple(found)

    def is_ours(self, pid: int, sockets: dict[int, frozenset[int]] | None = None) -> bool:
        """Args: sockets: the control sockets by network namespace, as far as they were looked up."""
        entry = self._proc / str(pid)
        if pid == os.getpid():
            return False
        with contextlib.suppress(OSError):  # it ended meanwhile, or it is not for us to look at
            if entry.stat().st_uid != os.geteuid():
                return False
            if self._variable in (entry / "environ").read_bytes().split(b"\0"):
                return True
            known = {} if sockets is None else sockets
            namespace = (entry / "ns" / "net").stat().st_ino
            if namespace not in known:
                known[namespace] = frozenset(self._control_sockets(entry))
            return bool(known[namespace]) and not known[namespace].isdisjoint(_open_sockets(entry))
        return False

    def _control_sockets(self, entry: Path) -> Iterator[int]:
        """Inodes of the sockets that were bound to a name in the directory, in the network namespace of a process."""
        for line in (entry / "net" / "unix").read_bytes().splitlines()[1:]:
            # proc_net(5): Num RefCount Protocol Flags Type St Inode Path
            fields = line.split(maxsplit=7)
            if len(fields) == 8 and fields[7].startswith(self._inside):
                yield int(fields[6])


def _open_sockets(entry: Path) -> Iterator[int]:
    for descriptor in (entry / "fd").iterdir():
        with contextlib.suppress(OSError):  # it was closed meanwhile
            found = _SOCKET.fullmatch(str(descriptor.readlink()))
            if found:
                yield int(found[1])


def end_leftovers(directory: Path) -> set[int]:
    """End processes that killed runs left at work in the private directory `directory`; returns their ids.

    The caller holds the lab's lock, so nothing that works there now belongs to a live run.
    """
    return _end(search_for_left(directory), (signal.SIGKILL, signal.SIGKILL), grace=2.0)


def end_run(tag: str, control_dir: Path, *, grace: float = 2.0) -> set[int]:
    """Ask every process of the run to end, and kill what is left after `grace` seconds; their process ids."""
    return _end(search_for_run(tag, control_dir), (signal.SIGTERM, signal.SIGKILL), grace=grace)


def _end(search: Search, signals: Sequence[signal.Signals], *, grace: float) -> set[int]:
    """Send the signals one after the other, each to what is found then; what was found."""
    asked: set[int] = set()
    for number in signals:
        with holding(search.processes(), search.is_ours) as held:
            if not held:
                break
            asked.update(held.values())
            end(held, ((number, grace),))
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
