"""The supervisor's process: one for each lab, held by a lock, and a daemon unless a unit of systemd runs it."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from emulator.adapters.control_groups.services import ServiceGroups
from emulator.adapters.services.children import ServiceProcesses
from emulator.adapters.services.own_programs import command_of
from emulator.core.errors import ConflictError
from emulator.core.locking import acquire
from emulator.core.trust.identity import ProcessIdentity
from emulator.core.trust.opening import open_own
from emulator.supervisor.loop import Supervisor
from emulator.supervisor.records import SupervisorFiles


def main(argv: list[str]) -> int:
    """Keep the services of the supervisor in a directory until none is left.

    Args:
        argv: the directory; `--detach` to become a daemon, `--delegated` when its control group is its own.
    """
    parser = argparse.ArgumentParser(prog="supervise")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--detach", action="store_true")
    parser.add_argument("--delegated", action="store_true")
    wanted = parser.parse_args(argv)
    ready = _detach() if wanted.detach else None
    files = SupervisorFiles(wanted.directory)
    lock = open_own(files.lock, os.O_RDWR | os.O_CREAT)
    try:
        acquire(lock, files.lock, seconds=0)
    except ConflictError:  # there is one already, and the command that started this one sees it
        _say_ready(ready)
        return 0
    groups = ServiceGroups.delegated() if wanted.delegated else None
    children = ServiceProcesses(command_of, groups)
    supervisor = Supervisor(files, children, time.monotonic, ProcessIdentity.of(os.getpid()))
    more = supervisor.turn()
    _say_ready(ready)
    if more:
        supervisor.run()
    return 0


def _detach() -> int:
    """Become a daemon; returns a descriptor for `_say_ready`.

    The command that started it waits as long as the daemon lives and is not ready, however long a busy host takes, and
    gets the errors that it prints until then.
    """
    waits, ready = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(ready)
        os._exit(0 if os.read(waits, 1) else 1)
    os.close(waits)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.umask(0o077)
    return ready


def _say_ready(ready: int | None) -> None:
    if ready is None:
        return
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.close(null)
    os.write(ready, b"1")
    os.close(ready)
