"""The libvirt connection of one run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from emulator.core.errors import HypervisorError
from emulator.core.ports import DaemonPresence, DomainInfo, Hypervisor, HypervisorDaemon, HypervisorView, NetworkInfo


class HypervisorPicture:
    """What a hypervisor had at one moment: 500 nodes are looked for in it, and each listing is done once."""

    def __init__(self, hypervisor: HypervisorView) -> None:
        self._domains = {info.name: info for info in hypervisor.domains()}
        self._domains_by_uuid = {info.uuid: info for info in self._domains.values()}
        self._networks = {info.name: info for info in hypervisor.networks()}
        self._networks_by_uuid = {info.uuid: info for info in self._networks.values()}

    def domains(self) -> tuple[DomainInfo, ...]:
        return tuple(self._domains.values())

    def domain(self, name: str) -> DomainInfo | None:
        return self._domains.get(name)

    def domain_by_uuid(self, uuid: UUID) -> DomainInfo | None:
        return self._domains_by_uuid.get(uuid)

    def networks(self) -> tuple[NetworkInfo, ...]:
        return tuple(self._networks.values())

    def network(self, name: str) -> NetworkInfo | None:
        return self._networks.get(name)

    def network_by_uuid(self, uuid: UUID) -> NetworkInfo | None:
        return self._networks_by_uuid.get(uuid)


class LazySession:
    """Opened when first needed. With a daemon of the lab's own, only while that runs.

    `private` says that the guests cannot outlive the hypervisor's end, so that a hypervisor that does not run
    has nothing left to take away.
    """

    def __init__(self, open_: Callable[[], Hypervisor], daemon: HypervisorDaemon | None) -> None:
        self._open = open_
        self._daemon = daemon
        self._lock = threading.Lock()
        self._connection: Hypervisor | None = None
        self._picture: HypervisorPicture | None = None
        self._down = False  # seen so; holds until `reset`, because each look walks through all processes

    @property
    def private(self) -> bool:
        return self._daemon is not None

    def peek(self) -> Hypervisor | None:
        with self._lock:
            if self._connection is None:
                if self._down:
                    return None
                if self._daemon is not None and self._daemon.presence() is not DaemonPresence.UP:
                    self._down = True
                    return None
                self._connection = self._open()
            return self._connection

    def view(self) -> HypervisorView | None:
        return self._picture or self.peek()

    @contextmanager
    def pictured(self) -> Iterator[None]:
        """While the block runs, `view` shows the hypervisor as it was at the block's beginning."""
        connection = self.peek()
        self._picture = HypervisorPicture(connection) if connection is not None else None
        try:
            yield
        finally:
            self._picture = None

    def get(self) -> Hypervisor:
        connection = self.peek()
        if connection is None:
            raise HypervisorError(
                "the lab's hypervisor does not run",
                fix="hyperscaler provision brings it back, hyperscaler destroy takes it away",
            )
        return connection

    def revive(self) -> Hypervisor | None:
        """The connection; a libvirtd of the lab's own that died is started again, so that its guests are seen.

        Nothing is made for a lab that has none. For commands that hold the lab's lock.
        """
        if self._daemon is not None and self._daemon.presence() is DaemonPresence.DOWN:
            self._daemon.start()
            self.reset()
        return self.peek()

    def reset(self) -> None:
        """Forget the connection: the hypervisor was started or stopped."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            self._down = False
