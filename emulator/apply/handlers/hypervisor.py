"""The lab's own libvirtd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.path_guard import require_below
from emulator.core.errors import ConflictError
from emulator.core.ports import DaemonPresence, HypervisorDaemon, HypervisorSession
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Hypervisor, Resource


class HypervisorHandler:
    """`expected(lab)` is the resource of a lab of this name on this host; its traces prove ownership."""

    def __init__(
        self,
        daemon: Callable[[Path, str], HypervisorDaemon],
        session: HypervisorSession,
        expected: Callable[[str], Hypervisor],
    ) -> None:
        self._daemon = daemon
        self._session = session
        self._expected = expected

    def _of(self, resource: Hypervisor) -> HypervisorDaemon:
        return self._daemon(Path(resource.directory), resource.namespace)

    def observe(self, resource: Hypervisor, record: Recorded | None) -> Observation:
        del record
        match self._of(resource).presence():
            case DaemonPresence.UP:
                return Observation(Presence.OURS)
            case DaemonPresence.DOWN:
                return Observation(Presence.OURS, drift=("does not run",))
            case DaemonPresence.ABSENT:
                return Observation(Presence.ABSENT)

    def ensure(self, resource: Hypervisor, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        context.report("starting libvirtd in namespaces of its own")
        uri = self._of(resource).start()
        self._session.reset()
        return {"uri": uri}

    def delete(self, resource: Hypervisor, handle: Handle, context: ApplyContext) -> None:
        del handle
        mine = self._expected(context.lab)
        directory = Path(resource.directory)
        require_below(Path(mine.directory).parent, directory, resource.id)
        if resource.namespace != mine.namespace:
            raise ConflictError(
                f"network namespace {resource.namespace} is on record, and the lab's is {mine.namespace}; "
                "its libvirtd was left alone",
                where=resource.id,
                fix="find out whose it is; the lab's journal may be a copy of another lab's",
            )
        self._session.reset()
        self._of(resource).stop()

    def find(self, lab: str) -> Sequence[Resource]:
        resource = self._expected(lab)
        there = self._of(resource).presence() is not DaemonPresence.ABSENT
        return (resource,) if there else ()
