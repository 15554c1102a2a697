"""The lab's own libvirtd."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emulator.apply.handler import ApplyContext, Handle
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Hypervisor, Resource
from emulator.ports import DaemonPresence, HypervisorDaemon


class HypervisorHandler:
    """`find_lab(lab)` gives the resource that a lab of this name has on this host; its traces decide."""

    def __init__(
        self,
        daemon: Callable[[Hypervisor], HypervisorDaemon],
        expected: Callable[[str], Hypervisor],
    ) -> None:
        self._daemon = daemon
        self._expected = expected

    def observe(self, resource: Hypervisor, record: Recorded | None) -> Observation:
        del record
        match self._daemon(resource).presence():
            case DaemonPresence.UP:
                return Observation(Presence.OURS)
            case DaemonPresence.DOWN:
                return Observation(Presence.OURS, drift=("does not run",))
            case DaemonPresence.ABSENT:
                return Observation(Presence.ABSENT)

    def ensure(self, resource: Hypervisor, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        context.report("starting libvirtd in namespaces of its own")
        return {"uri": self._daemon(resource).start()}

    def delete(self, resource: Hypervisor, handle: Handle, context: ApplyContext) -> None:
        del handle, context
        self._daemon(resource).stop()

    def find(self, lab: str) -> Sequence[Resource]:
        resource = self._expected(lab)
        there = self._daemon(resource).presence() is not DaemonPresence.ABSENT
        return (resource,) if there else ()
