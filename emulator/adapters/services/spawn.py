"""Starts one service: fork, limits, account, and a death that follows the supervisor's.

A service never outlives its supervisor, however that ends: it gets SIGKILL with it (PR_SET_PDEATHSIG). As root it is
also the first process of a process namespace of its own, so that the kernel ends with it whatever it has started.
Processes of the host cannot be signalled from there; a service with that task stays outside.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import pwd
import resource
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from emulator.core.errors import ServiceError
from emulator.core.ports.services import ServiceRequest
from emulator.core.units import MIB

# <linux/prctl.h> and <sched.h>; Python has os.unshare and os.setns only since 3.12.
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWPID = 0x20000000

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Start:
    """All that a service's process is made from.

    Attributes:
        argv: program and arguments.
        environment: all that it gets.
        output: descriptor of its standard output and error.
        join: `cgroup.procs` of its control group, or None.
    """

    request: ServiceRequest
    argv: Sequence[str]
    environment: Mapping[str, str]
    output: int
    join: Path | None = None


def environment(note: Path, start: str) -> dict[str, str]:
    """The environment of a service: nothing of the supervisor's."""
    return {"PATH": _PATH, "LANG": "C.UTF-8", "HYPERSCALER_NOTE": str(note), "HYPERSCALER_START": start}


def spawn(wanted: Start) -> int:
    """Start a service; returns its process id once its program runs.

    Raises:
        ServiceError: it cannot be started.
    """
    account = _account(wanted.request.account)
    said, says = os.pipe2(os.O_CLOEXEC)
    lives, mine = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)  # its writing end closes with this process
    try:
        pid = _fork(apart=not wanted.request.host_processes)
        if pid == 0:
            os.close(mine)
            _become(wanted, account, lives, says)
        os.close(says)
        says = -1
        _raise_for(wanted, pid, os.read(said, 4096))
        return pid
    finally:
        for descriptor in (said, says, lives, mine):
            if descriptor >= 0:
                os.close(descriptor)


def take_orphans() -> None:
    """Let processes whose parents died become children of this one, so that none is lost sight of."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _fork(*, apart: bool) -> int:
    """Fork; with `apart` the child is the first of a process namespace of its own, where the kernel permits it."""
    if not apart:
        return os.fork()
    here = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        made = _libc.unshare(_CLONE_NEWPID) == 0
        pid = os.fork()
        # Back at once: the namespace that later children would get ends with this one.
        if pid and made and _libc.setns(here, _CLONE_NEWPID) != 0:
            raise ServiceError(f"the supervisor cannot leave a namespace: {os.strerror(ctypes.get_errno())}")
        return pid
    finally:
        os.close(here)


def _account(name: str) -> pwd.struct_passwd | None:
    if not name:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise ServiceError(f"this host has no account {name}") from None


def _raise_for(wanted: Start, pid: int, said: bytes) -> None:
    """What a child reports is the error that kept it from becoming the service; silence means that it did."""
    if not said:
        return
    os.waitpid(pid, 0)
    number, _, what = said.decode("utf-8", "replace").partition(" ")
    raise ServiceError(f"{what}: {os.strerror(int(number))}", where=wanted.argv[0])


def _become(wanted: Start, account: pwd.struct_passwd | None, lives: int, says: int) -> NoReturn:
    """In the child: become the service, or report why not and end."""
    what = "it cannot be started"
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (wanted.output, 1), (wanted.output, 2)):
            os.dup2(source, target)
        os.chdir("/")
        os.umask(0o077)
        for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        what = "its limits cannot be set"
        if wanted.join is not None:
            wanted.join.write_text("0")
        _limit(wanted.request, account)
        what = "its account cannot be taken"
        if account is not None:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
        what = "it cannot be bound to the supervisor"
        for option, value in ((_PR_SET_NO_NEW_PRIVS, 1), (_PR_SET_PDEATHSIG, signal.SIGKILL)):
            if _libc.prctl(option, int(value), 0, 0, 0) != 0:
                raise OSError(ctypes.get_errno(), "prctl")
        _require_supervisor(lives)
        what = "its program cannot be run"
        os.execve(wanted.argv[0], list(wanted.argv), dict(wanted.environment))  # noqa: S606 - an absolute path
    except OSError as error:
        os.write(says, f"{error.errno or errno.EIO} {what}".encode())
    finally:
        os._exit(126)


def _require_supervisor(lives: int) -> None:
    """The supervisor may have died before it could be noted: then nobody holds the pipe's other end any more."""
    try:
        if os.read(lives, 1) == b"":
            raise OSError(errno.ESRCH, "the supervisor is gone")
    except BlockingIOError:
        return


def _limit(request: ServiceRequest, account: pwd.struct_passwd | None) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (request.files, request.files))
    if request.memory_mib:
        resource.setrlimit(resource.RLIMIT_AS, (request.memory_mib * MIB, request.memory_mib * MIB))
    if account is not None and account.pw_uid != 0:  # the kernel counts by account, and root's has no bound
        resource.setrlimit(resource.RLIMIT_NPROC, (request.processes, request.processes))
    os.setpriority(os.PRIO_PROCESS, 0, nice_value(request.cpu_weight))


def nice_value(weight: int) -> int:
    """The nice value (0 to 19) that comes closest to a share of the processor; each step is a factor of 1.25.

    For hosts without control groups. A larger share than the ordinary one is not given.
    """
    return max(0, min(19, round(-math.log(max(weight, 1) / 100, 1.25))))
