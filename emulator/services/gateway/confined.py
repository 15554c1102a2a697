"""The half of a service that talks to others, as a process without rights; the half that stays root's talks to it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from emulator.core.errors import ServiceError

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Confined:
    """The process, and this end of the connection to it."""

    pid: int
    control: socket.socket

    def require_lives(self) -> None:
        """Raise when it has ended.

        Raises:
            ServiceError: its log says why.
        """
        with contextlib.suppress(ChildProcessError):
            if not os.waitpid(self.pid, os.WNOHANG)[0]:
                return
        raise ServiceError("its process without rights has ended", where=f"process {self.pid}")


def start_confined(drop: Callable[[], None], work: Callable[[socket.socket], None]) -> Confined:
    """Fork.

    Args:
        drop: in the child, gives up root.
        work: what the child then does, with its end of the connection.
    """
    mine, its = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        mine.close()
        _work(drop, work, its)
    its.close()
    return Confined(pid, mine)


def _work(drop: Callable[[], None], work: Callable[[socket.socket], None], control: socket.socket) -> NoReturn:
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        drop()
        # After that, since a change of the account takes it back. A parent that has given up CAP_KILL cannot send it:
        # then the end of the connection is what is left, or the process namespace, which ends with the parent.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        work(control)
        status = 0
    except Exception as error:  # noqa: BLE001 - nobody is there to whom a forked process could raise it
        os.write(2, f"{error}\n".encode())
    finally:
        os._exit(status)
