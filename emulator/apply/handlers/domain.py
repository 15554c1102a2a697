"""Virtual machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from uuid import UUID

from emulator.apply.domain_drift import ACCOUNT, SSH_CREDENTIAL, Expected, drift_of, handle_of, held_to, settings_drift
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.missing_metadata import hypervisor_for_removal, may_remove, missing_mark
from emulator.apply.ownership import LabIdentity
from emulator.core import ids
from emulator.core.errors import ConflictError, StateError
from emulator.core.fs import private_directory
from emulator.core.ports import (
    DomainInfo,
    DomainRequest,
    DomainState,
    Hostdev,
    Hypervisor,
    HypervisorSession,
    HypervisorView,
    Ownership,
)
from emulator.core.ports.guest_accounts import GuestAccount
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Domain, Resource

_OFF = (DomainState.SHUTOFF, DomainState.CRASHED)

HostdevResolver = Callable[[Handle], Sequence[Hostdev]]
AccountResolver = Callable[[str], GuestAccount | None]
"""The account of a node's QEMU by the node's name; it is on record before it is used."""


class DomainHandler:
    """Domains: direct kernel boot from the image that the node's disk was made from. `root`: the lab's directory."""

    def __init__(
        self,
        session: HypervisorSession,
        lab: LabIdentity,
        public_key: Path,
        hostdevs: HostdevResolver,
        accounts: AccountResolver,
        *,
        root: Path,
        shutdown_seconds: float,
    ) -> None:
        self._session = session
        self._lab = lab
        self._public_key = public_key
        self._hostdevs = hostdevs
        self._accounts = accounts
        self._root = root
        self._shutdown_seconds = shutdown_seconds

    def observe(self, resource: Domain, record: Recorded | None) -> Observation:
        hypervisor = self._session.view()
        if hypervisor is None:
            if record is None:
                return Observation(Presence.ABSENT)
            return Observation(Presence.UNKNOWN, detail="its hypervisor does not run")
        info = hypervisor.domain_by_uuid(UUID(resource.uuid))
        obstacle = self._obstacle(hypervisor, resource, info)
        if obstacle is not None:
            return Observation(Presence.FOREIGN, detail=obstacle)
        if info is None or info.owner is None:
            return self._rival(hypervisor, resource) or Observation(Presence.ABSENT)
        recorded = record.resource if record and isinstance(record.resource, Domain) else resource
        expected = Expected.of(recorded, record.handle if record else {}, self._key())
        name = ids.host_name(self._lab.lab, resource.name)
        called = () if info.name == name else (f"is called {info.name} instead of {name}",)
        return Observation(Presence.OURS, digest=info.owner.digest, drift=(*called, *drift_of(expected, info)))

    def _key(self) -> str:
        try:
            return self._public_key.read_text().strip()
        except OSError:
            return ""

    def _obstacle(self, hypervisor: HypervisorView, resource: Domain, info: DomainInfo | None) -> str | None:
        """The foreign object that has the node's UUID (`info`) or its name, in words, or None."""
        if info is not None and not self._lab.owns_domain(info):
            lost = missing_mark(self._lab, info, resource.id)
            return lost.what if lost else f"a domain {info.name} is there already ({self._lab.whose_is(info)})"
        named = hypervisor.domain(ids.host_name(self._lab.lab, resource.name))
        if named is not None and str(named.uuid) != resource.uuid:
            return f"a domain {named.name} is there already ({self._lab.whose_is(named)})"
        return None

    def _rival(self, hypervisor: HypervisorView, resource: Domain) -> Observation | None:
        for info in hypervisor.domains():
            if resource.mac in info.macs:
                return Observation(Presence.FOREIGN, detail=f"domain {info.name} has the address {resource.mac}")
        return None

    def ensure(self, resource: Domain, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        hypervisor = self._session.get()
        name = ids.host_name(self._lab.lab, resource.name)
        info = hypervisor.domain_by_uuid(UUID(resource.uuid))
        obstacle = self._obstacle(hypervisor, resource, info)
        if obstacle is not None:
            raise ConflictError(obstacle, where=resource.id)
        if info is not None and info.name != name:
            info = self._rename(info, name, hypervisor, context)
        fits = info is not None and info.owner is not None and info.owner.digest == resource.digest
        # A paused domain is resumed: QEMU pauses a guest whose disk cannot grow because the host's disk is full.
        alive = info is not None and info.state in (DomainState.RUNNING, DomainState.PAUSED)
        request = self._request(resource, name, context)
        handle, recorded = handle_of(request), context.handle(resource.id)
        # A domain that is off is defined again in any case: its disk may be new, and it must accept the key that
        # the lab has now.
        if info is not None and alive and fits:
            held = Expected.of(resource, held_to(handle, recorded), handle["public_key"])
            stored, live = settings_drift(held, info)
            if not stored and not live:
                hypervisor.start_domain(name)
                return _kept(resource, info, request, recorded)
            restarts = bool(live) or info.live is None  # otherwise the running guest is in its wanted state
        else:
            restarts = True
        if restarts and info is not None and info.state not in _OFF:
            context.report("shutting down, because its settings change")
            hypervisor.shutdown_domain(name, timeout=self._shutdown_seconds)
        console = Path(resource.console_log).parent
        private_directory(console)
        hypervisor.admit_guests((self._root, request.disk.parent, console), request.account)
        hypervisor.define_domain(request)
        made = hypervisor.domain(name)
        hypervisor.start_domain(name)
        return {**handle, **_as_made(made)}

    def _rename(self, info: DomainInfo, name: str, hypervisor: Hypervisor, context: ApplyContext) -> DomainInfo | None:
        """Rename it back to its own name, by which everything else finds it. libvirt renames a domain only while it is
        off."""
        if info.state not in _OFF:
            context.report(f"shutting down, because it is called {info.name}")
            hypervisor.shutdown_domain(info.name, timeout=self._shutdown_seconds)
        hypervisor.rename_domain(info.name, name)
        return hypervisor.domain(name)

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
            account=self._accounts(resource.node),
            hostdevs=tuple(
                device for request in resource.hostdevs for device in self._hostdevs(context.handle(request.source))
            ),
        )

    def delete(self, resource: Domain, handle: Handle, context: ApplyContext) -> None:
        del handle, context
        hypervisor = hypervisor_for_removal(self._session)
        info = hypervisor.domain_by_uuid(UUID(resource.uuid)) if hypervisor else None
        if hypervisor is None or info is None:
            return
        if may_remove(self._lab, info, resource.id, private=self._session.private):
            hypervisor.delete_domain(info.name)

    def find(self, lab: str) -> Sequence[Resource]:
        del lab
        hypervisor = self._session.view()
        infos = hypervisor.domains() if hypervisor else ()
        return tuple(
            _as_resource(info, info.owner) for info in infos if info.owner is not None and self._lab.owns_domain(info)
        )


def passed_devices(sessions: Iterable[HypervisorSession], lab: LabIdentity) -> tuple[Hostdev, ...]:
    """Host devices of the lab's domains, in the stored descriptions and in the running ones."""
    views = [view for session in sessions if (view := session.view()) is not None]
    infos = [info for view in views for info in view.domains() if lab.owns_domain(info)]
    return tuple(device for info in infos for device in (*info.hostdevs, *(info.live.hostdevs if info.live else ())))


def _as_made(made: DomainInfo | None) -> Handle:
    """What of its handle is known only once libvirt has it."""
    account = {ACCOUNT: made.account} if made and made.account else {}
    return {"extras": list(made.extras) if made else [], **account}


def _kept(resource: Domain, info: DomainInfo, request: DomainRequest, recorded: Handle) -> Handle:
    """The handle of a domain that was left alone: the whole handle if nothing differs, else the comparable part.

    A guest of an earlier version runs as another account until its next start; that is no difference.
    """
    handle = handle_of(request)
    whole = {**handle, "extras": [], **({ACCOUNT: recorded[ACCOUNT]} if ACCOUNT in recorded else {})}
    defined = GuestAccount.of_label(info.account)
    if request.account is not None and defined is not None and defined.uid == request.account.uid:
        whole[ACCOUNT] = info.account
    if not any(settings_drift(Expected.of(resource, whole, handle["public_key"]), info)):
        return whole
    return held_to(handle, recorded)


def _as_resource(info: DomainInfo, owner: Ownership) -> Domain:
    # By the mark, because the domain may have been renamed by hand.
    name = owner.resource_id.partition("/")[2]
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
