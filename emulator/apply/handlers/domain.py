"""Virtual machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from emulator import ids
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.handlers.files import private_directory
from emulator.apply.identity import LabIdentity
from emulator.errors import ConflictError, StateError
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Domain, Resource
from emulator.ports import (
    DomainInfo,
    DomainRequest,
    DomainState,
    Hostdev,
    HypervisorSession,
    HypervisorView,
)

SSH_CREDENTIAL = "lab.authorized_key"  # read by the image's /etc/tmpfiles.d/lab.conf

HostdevResolver = Callable[[Handle], Sequence[Hostdev]]


class DomainHandler:
    """Direct kernel boot from the image that the node's disk was made from."""

    def __init__(
        self,
        session: HypervisorSession,
        lab: LabIdentity,
        public_key: Path,
        hostdevs: HostdevResolver,
        *,
        shutdown_seconds: float,
    ) -> None:
        self._session = session
        self._lab = lab
        self._public_key = public_key
        self._hostdevs = hostdevs
        self._shutdown_seconds = shutdown_seconds

    def observe(self, resource: Domain, record: Recorded | None) -> Observation:
        hypervisor = self._session.view()
        if hypervisor is None:
            if record is None:
                return Observation(Presence.ABSENT)
            return Observation(Presence.UNKNOWN, detail="its hypervisor does not run")
        info = hypervisor.domain(ids.host_name(self._lab.lab, resource.name))
        if info is None:
            return self._rival(hypervisor, resource) or Observation(Presence.ABSENT)
        if info.owner is None or not self._lab.owns_domain(info):
            whose = self._lab.whose(info.owner)
            return Observation(Presence.FOREIGN, detail=f"a domain {info.name} is there already ({whose})")
        recorded = record.resource if record and isinstance(record.resource, Domain) else resource
        expected = Expected.of(recorded, record.handle if record else {})
        return Observation(Presence.OURS, digest=info.owner.digest, drift=_drift(expected, info))

    def _rival(self, hypervisor: HypervisorView, resource: Domain) -> Observation | None:
        for info in hypervisor.domains():
            if resource.mac in info.macs:
                return Observation(Presence.FOREIGN, detail=f"domain {info.name} has the address {resource.mac}")
            if str(info.uuid) == resource.uuid:
                return Observation(Presence.FOREIGN, detail=f"domain {info.name} has the UUID {resource.uuid}")
        return None

    def ensure(self, resource: Domain, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        hypervisor = self._session.get()
        name = ids.host_name(self._lab.lab, resource.name)
        info = hypervisor.domain(name)
        if info and not self._lab.owns_domain(info):
            raise ConflictError(f"a domain {name} that is not this lab's is in the way", where=resource.id)
        fits = info is not None and info.owner is not None and info.owner.digest == resource.digest
        running = info is not None and info.state is DomainState.RUNNING
        request = self._request(resource, name, context)
        handle = _handle(request)
        # One that does not run is defined again in any case: its disk may be new, and it must be let in by the key that
        # the lab has now.
        if not (info and running and fits and not _settings_drift(Expected.of(resource, handle), info)):
            if info and info.state not in (DomainState.SHUTOFF, DomainState.CRASHED):
                context.report("shutting down, its settings change")
                hypervisor.shutdown_domain(name, timeout=self._shutdown_seconds)
            private_directory(Path(resource.console_log).parent)
            hypervisor.define_domain(request)
        hypervisor.start_domain(name)
        return handle

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
            owner=self._lab.mark(resource.id, resource.digest),
            vcpus=resource.vcpus,
            memory_mib=resource.memory_mib,
            disk=disk,
            kernel=kernel,
            initrd=initrd,
            cmdline=f"{volume['cmdline']} systemd.hostname={resource.node} systemd.machine_id={machine_id}",
            network=ids.host_name(self._lab.lab, resource.network.partition("/")[2]),
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
        name = ids.host_name(self._lab.lab, resource.name)
        info = hypervisor.domain(name) if hypervisor else None
        if hypervisor and info and self._lab.owns_domain(info):
            hypervisor.delete_domain(name)

    def find(self, lab: str) -> Sequence[Resource]:
        hypervisor = self._session.view()
        infos = hypervisor.domains() if hypervisor else ()
        return tuple(_as_resource(lab, info) for info in infos if self._lab.owns_domain(info))


def passed_devices(sessions: Iterable[HypervisorSession], lab: LabIdentity) -> tuple[Hostdev, ...]:
    """What the lab's domains have of the host's devices, as they are stored and as they run."""
    views = [view for session in sessions if (view := session.view()) is not None]
    infos = [info for view in views for info in view.domains() if lab.owns_domain(info)]
    return tuple(device for info in infos for device in (*info.hostdevs, *(info.live.hostdevs if info.live else ())))


@dataclass(frozen=True, slots=True)
class Expected:
    """What a domain should be like. Fields that an older version did not record are None, and not compared."""

    memory_mib: int
    vcpus: int
    macs: tuple[str, ...]
    disks: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    kernel: str | None = None
    hostdevs: tuple[str, ...] | None = None

    @classmethod
    def of(cls, resource: Domain, handle: Handle) -> Expected:
        """By the resource, and by what its handle says of the things that it was put together from."""

        def listed(key: str) -> tuple[str, ...] | None:
            return tuple(map(str, handle[key])) if isinstance(handle.get(key), (list, tuple)) else None

        kernel = handle.get("kernel")
        return cls(
            memory_mib=resource.memory_mib,
            vcpus=resource.vcpus,
            macs=(resource.mac,),
            disks=listed("disks"),
            networks=listed("networks"),
            kernel=kernel if isinstance(kernel, str) else None,
            hostdevs=listed("hostdevs"),
        )


def _handle(request: DomainRequest) -> Handle:
    return {
        "name": request.name,
        "disks": [str(request.disk)],
        "networks": [request.network],
        "kernel": str(request.kernel),
        "hostdevs": sorted(device.address.lower() for device in request.hostdevs),
    }


def _drift(expected: Expected, info: DomainInfo) -> tuple[str, ...]:
    stopped = () if info.state is DomainState.RUNNING else (f"is {info.state.value}",)
    return (*stopped, *_settings_drift(expected, info))


def _settings_drift(expected: Expected, info: DomainInfo) -> tuple[str, ...]:
    """What was edited behind our back, in the stored description or in the running guest; the metadata's digest does
    not tell, since an edit keeps it."""
    stored = _differences(expected, info)
    if info.live is None:
        return tuple(f"has {text}" for text in stored)
    live = [text for text in _differences(expected, info.live) if text not in stored]
    return (*(f"has {text}" for text in stored), *(f"runs with {text}" for text in live))


def _differences(expected: Expected, info: DomainInfo) -> list[str]:
    found = []
    if info.memory_mib != expected.memory_mib:
        found.append(f"{info.memory_mib} MiB of memory instead of {expected.memory_mib}")
    if info.vcpus != expected.vcpus:
        found.append(f"{info.vcpus} vCPUs instead of {expected.vcpus}")
    if info.macs != expected.macs:
        found.append(f"the network cards {_listed(info.macs)} instead of {_listed(expected.macs)}")
    if expected.kernel not in (None, info.kernel):
        found.append(f"the kernel {info.kernel or 'none'} instead of {expected.kernel}")
    there = {
        "disks": (tuple(map(str, info.disks)), expected.disks),
        "networks": (info.networks, expected.networks),
        "devices": (tuple(sorted(device.address for device in info.hostdevs)), expected.hostdevs),
    }
    for what, (seen, wanted) in there.items():
        if wanted is not None and seen != wanted:
            found.append(f"the {what} {_listed(seen)} instead of {_listed(wanted)}")
    return found


def _listed(items: Sequence[str]) -> str:
    return ", ".join(items) or "none"


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
