"""The running guests of one lab, for what watches over them without opening the lab."""

from __future__ import annotations

from collections.abc import Callable

from emulator.apply.ownership import LabIdentity
from emulator.core.ports import DomainInfo, Hypervisor


class OwnGuests:
    """The domains of one lab.

    Args:
        connect: opens the lab's hypervisor; called when it is first needed, and again after it failed.
        lab: how the lab recognises its own.
    """

    def __init__(self, connect: Callable[[], Hypervisor], lab: LabIdentity) -> None:
        self._open, self._lab = connect, lab
        self._connection: Hypervisor | None = None

    def _hypervisor(self) -> Hypervisor:
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def list(self) -> tuple[DomainInfo, ...]:
        """All domains of the lab.

        Raises:
            HypervisorError: the hypervisor does not run or does not answer.
        """
        return tuple(info for info in self._hypervisor().domains() if self._lab.owns_domain(info))

    def pause(self, name: str) -> None:
        """Stop a guest's processors."""
        self._hypervisor().pause_domain(name)

    def resume(self, name: str) -> None:
        """Let a paused guest go on."""
        self._hypervisor().start_domain(name)
