"""Services: processes that stay running, under the lab's supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.path_guard import require_below
from emulator.core.errors import StateError
from emulator.core.ports.services import ServiceInfo, ServiceRequest, ServiceState, ServiceSupervisor
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Resource, resource_from_json
from emulator.plan.service_resources import Service

_HEALTHY = (ServiceState.RUNNING, ServiceState.STARTING)


def trouble_of(info: ServiceInfo) -> tuple[str, ...]:
    """Why a service is not as it should be, in words."""
    if info.state in _HEALTHY:
        return ()
    if info.state is ServiceState.DOWN:
        return (info.reason or "does not run",)
    return (f"does not run: {info.reason or info.state.value}",)


class ServiceHandler:
    """Services under the supervisor of one lab.

    Args:
        supervisor: of the lab.
        directory: of that supervisor: what is recorded with another one is another lab's.
    """

    def __init__(self, supervisor: ServiceSupervisor, directory: Path) -> None:
        self._supervisor, self._directory = supervisor, directory

    def observe(self, resource: Service, record: Recorded | None) -> Observation:
        del record
        info = self._info(resource.name)
        if info is None:
            return Observation(Presence.ABSENT)
        return Observation(Presence.OURS, digest=info.digest, drift=trouble_of(info))

    def _info(self, name: str) -> ServiceInfo | None:
        return next((info for info in self._supervisor.services() if info.name == name), None)

    def ensure(self, resource: Service, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous, context
        require_below(self._directory.parent, Path(resource.directory), resource.id)
        self._supervisor.ensure(
            ServiceRequest(
                name=resource.name,
                digest=resource.digest,
                program=resource.program,
                arguments=resource.arguments,
                account=resource.account,
                notifies=resource.notifies,
                memory_mib=resource.memory_mib,
                files=resource.files,
                processes=resource.processes,
                cpu_weight=resource.cpu_weight,
                definition=resource.to_json(),
                host_processes=resource.host_processes,
            )
        )
        return {}

    def delete(self, resource: Service, handle: Handle, context: ApplyContext) -> None:
        del handle, context
        require_below(self._directory.parent, Path(resource.directory), resource.id)
        self._supervisor.remove(resource.name)

    def find(self, lab: str) -> Sequence[Resource]:
        del lab
        return tuple(self._as_resource(info) for info in self._supervisor.services())

    def _as_resource(self, info: ServiceInfo) -> Service:
        """The resource as its record has it; with a damaged record what is needed to remove it."""
        if info.definition:
            try:
                made = resource_from_json(info.definition)
            except StateError:
                made = None
            if isinstance(made, Service) and made.name == info.name:
                return made
        return Service(name=info.name, directory=str(self._directory), program="")
