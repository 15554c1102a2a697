"""Finds and ends the processes of an embedded hypervisor.

A process is ours if its mount namespace has our directory at `/run/libvirt`: libvirtd is started so, and QEMU and
dnsmasq inherit it. No pid file is trusted, and a pid that was reused is never signalled, because signals go through
pidfds that are checked after opening.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.adapters.system.session_time import work_of_session
from emulator.core.trust.processes import end, holding, process_ids, running_thread
from emulator.core.trust.users import users_of
from emulator.core.waiting.watch import Clock, Look, Patience, wait_until

_PLACE = "/run/libvirt"
_NS_GET_USERNS = 0xB701
"""ioctl_ns(2): a descriptor of the user namespace that owns another namespace."""


@dataclass(frozen=True, slots=True)
class EmbeddedProcess:
    """A live process.

    Attributes:
        pid: its id.
        name: the kernel's name for it (15 characters).
        netns: inode of its network namespace.
        thread: id of one of its threads that runs; the process's own unless its first thread has ended.
        roots_network: whether root has made that namespace. A guest that broke out of QEMU can make one in a user
            namespace of its own, and can enter none of root's.
        runs_as_root: it has no other user, real, effective or saved. A process chooses its name, and not this.
    """

    pid: int
    name: str
    netns: int
    thread: int
    roots_network: bool
    runs_as_root: bool

    @property
    def is_libvirtd(self) -> bool:
        """Whether it is libvirtd, and no QEMU that says so."""
        return self.name == "libvirtd" and self.runs_as_root


def find_processes(directory: Path) -> tuple[EmbeddedProcess, ...]:
    """All live processes of the embedded hypervisor whose directory is, or was, `directory`."""
    return tuple(process for pid in process_ids() if (process := _identify(pid, directory)))


def end_processes(
    processes: Sequence[EmbeddedProcess], directory: Path, *, patience: float
) -> tuple[EmbeddedProcess, ...]:
    """SIGTERM, after `patience` seconds SIGKILL; returns processes that do not die (blocked in the kernel)."""
    asked = {process.pid: process for process in processes}

    def is_ours(pid: int) -> bool:
        return _identify(pid, directory) is not None

    with holding(asked, is_ours) as held:
        end(held, ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)))
        return tuple(asked[pid] for pid in held.values())


def answered(
    answers: Callable[[], bool],
    daemons: Callable[[], Iterable[EmbeddedProcess]],
    seconds: float,
    clock: Clock | None = None,
) -> bool:
    """Whether a daemon answers within `seconds`, or later while it uses the processor: one that is slow is not dead."""
    patience = Patience.within(seconds)
    pauses = itertools.chain((0.05,) * 20, itertools.repeat(0.5))  # a look at its processor time takes some itself

    def worked() -> float:
        with contextlib.suppress(ProcessLookupError):
            return sum(work_of_session(os.getsid(daemon.pid)).seconds for daemon in daemons())
        return 0.0

    def look() -> Look[bool]:
        up = answers()
        return Look(up, up, sign=None if up else patience.steps(worked()), pause=next(pauses))

    return wait_until(look, patience, clock=clock).value


def _identify(pid: int, directory: Path) -> EmbeddedProcess | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        proc = running_thread(pid)  # of a guest that broke out, the first thread may have ended
        if proc is not None and _shows(proc, directory / "run"):
            name = (proc / "comm").read_text(errors="replace").strip()
            netns, roots = _network(proc)
            as_root = users_of(pid) == {0}
            return EmbeddedProcess(pid, name, netns, int(proc.name), roots_network=roots, runs_as_root=as_root)
    return None


def _network(proc: Path) -> tuple[int, bool]:
    """The network namespace of a process or thread, and whether it belongs to the user namespace that we are in."""
    descriptor = os.open(proc / "ns" / "net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        number = os.fstat(descriptor).st_ino
        try:
            owner = fcntl.ioctl(descriptor, _NS_GET_USERNS)
        except PermissionError:  # neither ours nor made below ours
            return number, False
        try:
            return number, os.path.samestat(os.fstat(owner), Path("/proc/self/ns/user").stat())
        finally:
            os.close(owner)
    finally:
        os.close(descriptor)


def _shows(proc: Path, directory: Path) -> bool:
    """Whether the process has `directory`, which may be deleted by now, at `/run/libvirt`."""
    # proc_pid_mountinfo(5): id, parent, major:minor, root inside the file system, mount point, ... Below the mount of
    # the directory there is another where the host itself has a /run/libvirt.
    lines = (line.split() for line in (proc / "mountinfo").read_text(errors="replace").splitlines())
    there = [fields for fields in lines if fields[4] == _PLACE]
    if not there:
        return False
    try:
        return (proc / "root" / _PLACE.lstrip("/")).samefile(directory)
    except FileNotFoundError:
        return any(_was(fields[3], fields[2], directory) for fields in there)


def _was(root: str, device: str, directory: Path) -> bool:
    """Whether a mount's root is the deleted `directory`: same file system, same path, and marked so."""
    parent = next(path for path in directory.parents if path.exists())
    number = parent.stat().st_dev
    if device != f"{os.major(number)}:{os.minor(number)}" or not root.endswith("//deleted"):
        return False
    # The root is relative to its file system, so it is the end of the path. mountinfo writes blanks as \040.
    path = root.removesuffix("//deleted").encode().decode("unicode_escape").encode("latin-1").decode()
    return str(directory).endswith(path)
