"""Virtual machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from emulator import ids
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.handlers.files import private_directory
from emulator.errors import ConflictError, StateError
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Domain, Resource
from emulator.ports import (
    DomainInfo,
    DomainRequest,
    DomainState,
    Hostdev,
    Hypervisor,
    HypervisorSession,
    Ownership,
)

SHUTDOWN_SECONDS = 120.0
SSH_CREDENTIAL = "ssh.authorized_keys.root"  # read by systemd 252's tmpfiles provision.conf

HostdevResolver = Callable[[Handle], Sequence[Hostdev]]


class DomainHandler:
    """Direct kernel boot from the image that the node's disk was made from."""

    def __init__(self, session: HypervisorSession, lab: str, public_key: Path, hostdevs: HostdevResolver) -> None:
        self._session = session
        self._lab = lab
        self._public_key = public_key
        self._hostdevs = hostdevs

    def observe(self, resource: Domain, record: Recorded | None) -> Observation:
        hypervisor = self._session.peek()
        if hypervisor is None:
            if record is None:
                return Observation(Presence.ABSENT)
            return Observation(Presence.UNKNOWN, detail="its hypervisor does not run")
        info = hypervisor.domain(ids.host_name(self._lab, resource.name))
        if info is None:
            return self._rival(hypervisor, resource) or Observation(Presence.ABSENT)
        if info.owner is None or info.owner.lab != self._lab:
            whose = f"of lab {info.owner.lab}" if info.owner else "not made by hyperscaler"
            return Observation(Presence.FOREIGN, detail=f"a domain {info.name} is there already ({whose})")
        recorded = record.resource if record and isinstance(record.resource, Domain) else resource
        return Observation(Presence.OURS, digest=info.owner.digest, drift=_drift(recorded, info))

    def _rival(self, hypervisor: Hypervisor, resource: Domain) -> Observation | None:
        for info in hypervisor.domains():
            if resource.mac in info.macs:
                return Observation(Presence.FOREIGN, detail=f"domain {info.name} has the address {resource.mac}")
            if str(info.uuid) == resource.uuid:
                return Observation(Presence.FOREIGN, detail=f"domain {info.name} has the UUID {resource.uuid}")
        return None

    def ensure(self, resource: Domain, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        hypervisor = self._session.get()
        name = ids.host_name(self._lab, resource.name)
        info = hypervisor.domain(name)
        if info and (info.owner is None or info.owner.lab != self._lab):
            raise ConflictError(f"a domain {name} that is not this lab's is in the way", where=resource.id)
        fits = info is not None and info.owner is not None and info.owner.digest == resource.digest
        if not (info and fits and not _settings_drift(resource, info)):
            if info and info.state is DomainState.RUNNING:
                context.report("shutting down, its settings change")
                hypervisor.shutdown_domain(name, timeout=SHUTDOWN_SECONDS)
            private_directory(Path(resource.console_log).parent)
            hypervisor.define_domain(self._request(resource, name, context))
        hypervisor.start_domain(name)
        return {"name": name}

    def _request(self, resource: Domain, name: str, context: ApplyContext) -> DomainRequest:
        volume = context.handle(resource.volume)
        try:
            public_key = self._public_key.read_text().strip()
            disk, kernel, initrd = (Path(volume[key]) for key in ("path", "kernel", "initrd"))
        except (OSError, KeyError) as error:
            raise StateError(f"cannot be defined, since {error} is missing", where=resource.id) from error
        machine_id = UUID(resource.uuid).hex
        return DomainRequest(
            name=name,
            uuid=UUID(resource.uuid),
            owner=Ownership(self._lab, resource.id, resource.digest),
            vcpus=resource.vcpus,
            memory_mib=resource.memory_mib,
            disk=disk,
            kernel=kernel,
            initrd=initrd,
            cmdline=f"{volume['cmdline']} systemd.hostname={resource.node} systemd.machine_id={machine_id}",
            network=ids.host_name(self._lab, resource.network.partition("/")[2]),
            mac=resource.mac,
            console_log=Path(resource.console_log),
            accelerated=resource.accelerated,
            credentials={SSH_CREDENTIAL: public_key},
            hostdevs=tuple(
                device for request in resource.hostdevs for device in self._hostdevs(context.handle(request.source))
            ),
        )

    def delete(self, resource: Domain, handle: Handle, context: ApplyContext) -> None:
        del handle, context
        # The guests of a private hypervisor that does not run ended with it; any other must answer.
        hypervisor = self._session.peek() if self._session.private else self._session.get()
        name = ids.host_name(self._lab, resource.name)
        info = hypervisor.domain(name) if hypervisor else None
        if hypervisor and info and info.owner and info.owner.lab == self._lab:
            hypervisor.delete_domain(name)

    def find(self, lab: str) -> Sequence[Resource]:
        hypervisor = self._session.peek()
        infos = hypervisor.domains() if hypervisor else ()
        return tuple(_as_resource(lab, info) for info in infos if info.owner and info.owner.lab == lab)


def _drift(recorded: Domain, info: DomainInfo) -> tuple[str, ...]:
    stopped = () if info.state is DomainState.RUNNING else (f"is {info.state.value}",)
    return (*stopped, *_settings_drift(recorded, info))


def _settings_drift(wanted: Domain, info: DomainInfo) -> tuple[str, ...]:
    """What was edited behind our back; the metadata's digest does not tell, since an edit keeps it."""
    drift = []
    if info.memory_mib != wanted.memory_mib:
        drift.append(f"has {info.memory_mib} MiB of memory instead of {wanted.memory_mib}")
    if info.vcpus != wanted.vcpus:
        drift.append(f"has {info.vcpus} vCPUs instead of {wanted.vcpus}")
    if info.macs != (wanted.mac,):
        drift.append(f"has the network cards {', '.join(info.macs) or 'none'} instead of {wanted.mac}")
    return tuple(drift)


def _as_resource(lab: str, info: DomainInfo) -> Domain:
    name = info.name.removeprefix(f"{lab}-")
    return Domain(
        name=name,
        uuid=str(info.uuid),
        node=name,
        vcpus=info.vcpus,
        memory_mib=info.memory_mib,
        mac=info.macs[0] if info.macs else "",
        ip="",
        network="",
        volume="",
        console_log="",
        accelerated=False,
    )
