"""How many nodes boot at once: as many as the host has processors for.

Guests that boot side by side on too few cores are all slow, and their own deadlines (systemd waits 90 seconds for a
device) know nothing of that. One after the other takes as long in all, and each keeps its time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from emulator.core.ports import DomainInfo, DomainState
from emulator.core.waiting.pace import Pace
from emulator.core.waiting.watch import Patience, Watch
from emulator.lab.wait_for_ssh import console_size, has_key_beyond
from emulator.plan.resources import Domain, Resource

BOOT_SECONDS = 60.0
"""What a boot takes on a fast host at most. One that takes longer does not keep the others: its own wait is later."""


@dataclass(slots=True)
class _Boot:
    """A step that may start a guest. `before`: the guest's processor time before the step, None when it was off."""

    resource: Domain
    offset: int
    before: float | None
    watch: Watch | None = None


class BootGate:
    """Says to the executor whether a step that starts a guest may begin.

    Args:
        pace: of the host; `boots` guests may boot at once.
        look: the domain of a resource as it is now.
        now: seconds of a monotonic clock.
    """

    def __init__(
        self, pace: Pace, look: Callable[[Domain], DomainInfo | None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = pace.boots
        self._patience = Patience.within(pace.seconds(BOOT_SECONDS))
        self._look = look
        self._now = now
        self._boots: dict[str, _Boot] = {}
        self._lock = Lock()

    def admits(self, resource: Resource) -> str:
        """Nothing when the step may begin, which then counts as a boot; else what it waits for."""
        if not isinstance(resource, Domain):
            return ""
        with self._lock:
            self._boots = {key: boot for key, boot in self._boots.items() if self._goes_on(boot)}
            if len(self._boots) >= self._most:
                return f"{self._most} node{'' if self._most == 1 else 's'} at a time boot on this host"
            info = self._look(resource)
            running = info is not None and info.state is DomainState.RUNNING
            before = info.cpu_seconds if info is not None and running else None
            self._boots[resource.id] = _Boot(resource, console_size(Path(resource.console_log)), before)
            return ""

    def ended(self, resource: Resource) -> None:
        """The step has ended, well or not; if a guest was started, it boots from now on."""
        with self._lock:
            boot = self._boots.get(resource.id)
            if boot is not None:
                boot.watch = Watch(self._patience, self._now)

    def _goes_on(self, boot: _Boot) -> bool:
        """Whether the step, or the boot of the guest that it started, still goes on."""
        if boot.watch is None:
            return True
        info = self._look(boot.resource)
        if info is None or info.state is not DomainState.RUNNING:
            return False
        if boot.before is not None and info.cpu_seconds >= boot.before:
            return False  # the running guest was left alone
        console = Path(boot.resource.console_log)
        if has_key_beyond(console, boot.offset):
            return False
        return boot.watch.look((console_size(console), self._patience.steps(info.cpu_seconds))) is None
