"""Which process is meant, also later: by its id, when it started and in which boot."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.core.errors import StateError
from emulator.core.trust.processes import await_end, holding, running_thread, send, start_time

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process: ids are used again, but not with the same start (ticks since boot) in the same boot."""

    pid: int
    started: str
    boot: str

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """That of the process which has this id now."""
        return cls(pid, _started(pid), read_boot_id())

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
        return bool(self.started) and self.boot == read_boot_id() and _started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> bool:
        """Send a signal; whether the process was there to get it."""
        with holding((self.pid,), self._is_it) as held:
            send(held, number)
            return bool(held)

    def ended_within(self, seconds: float) -> bool:
        """Wait for the process's end; whether it came."""
        with holding((self.pid,), self._is_it) as held:
            await_end(held, seconds)
            return not held

    def _is_it(self, _pid: int) -> bool:
        return self.lives()


def read_boot_id() -> str:
    """The kernel's boot id, which changes with each reboot of the host.

    Raises:
        StateError: not a Linux host with /proc.
    """
    try:
        return BOOT_ID.read_text().strip()
    except OSError as error:
        raise StateError("the host's boot id cannot be read", where=str(BOOT_ID)) from error


def _started(pid: int) -> str:
    """When it started; empty when the process is gone or a zombie."""
    return start_time(pid) if running_thread(pid) is not None else ""
