"""Which process is meant: by its id, when it started and in which boot, and signals that can hit no other one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process: ids are used again, but not with the same start (ticks since boot) in the same boot."""

    pid: int
    started: str
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """That of the process which has this id now."""
        return cls(pid, _started(pid), _boot())

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> ProcessIdentity | None:
        """The inverse of `to_json`; None for anything else."""
        pid, started, boot = data.get("pid"), data.get("started"), data.get("boot")
        if type(pid) is int and pid > 0 and isinstance(started, str) and started and isinstance(boot, str):
            return cls(pid, started, boot)
        return None

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "started": self.started, "boot": self.boot}

    def lives(self) -> bool:
        """Whether the process runs; one that ended and was not yet reaped does not."""
        return bool(self.started) and self.boot == _boot() and _started(self.pid) == self.started

    @contextlib.contextmanager
    def handle(self) -> Iterator[int | None]:
        """A pidfd of the process, None when it is gone. What the descriptor stands for was checked after opening."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except OSError:
            yield None
            return
        try:
            yield descriptor if self.lives() else None
        finally:
            os.close(descriptor)

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; whether the process was there to get it."""
        with self.handle() as descriptor:
            if descriptor is None:
                return False
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, number)
                return True
            return False

    def ended_within(self, seconds: float) -> bool:
        """Wait for the process's end; whether it came."""
        with self.handle() as descriptor:
            return descriptor is None or bool(select.select([descriptor], [], [], seconds)[0])


def _boot() -> str:
    return _BOOT_ID.read_text().strip()


def _started(pid: int) -> str:
    """Field 22 of proc_pid_stat(5); empty when the process is gone or a zombie."""
    try:
        # The name of a program may hold spaces and brackets; what follows the last bracket may not.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""
