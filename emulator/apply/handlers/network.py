"""libvirt networks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from uuid import UUID

from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.lock import exclusive_lock
from emulator.apply.missing_metadata import hypervisor_for_removal, may_remove, missing_mark
from emulator.apply.ownership import LabIdentity
from emulator.core import ids
from emulator.core.errors import ConflictError
from emulator.core.fs import private_directory
from emulator.core.ports import (
    DhcpHost,
    DnsName,
    Hypervisor,
    HypervisorSession,
    HypervisorView,
    NetworkInfo,
    NetworkRequest,
    Ownership,
)
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import DhcpReservation, Network, Resource


class NetworkHandler:
    """`lock` is the host's lock: of two labs that want the same bridge or subnet, the second must see the first."""

    def __init__(self, session: HypervisorSession, lab: LabIdentity, lock: Path, *, wait_seconds: float) -> None:
        self._session = session
        self._lab = lab
        self._lock = lock
        self._wait_seconds = wait_seconds

    def observe(self, resource: Network, record: Recorded | None) -> Observation:
        hypervisor = self._session.view()
        if hypervisor is None:
            if record is None:
                return Observation(Presence.ABSENT)
            return Observation(Presence.UNKNOWN, detail="its hypervisor does not run")
        info = hypervisor.network_by_uuid(UUID(resource.uuid))
        obstacle = self._obstacle(hypervisor, resource, info)
        if obstacle is not None:
            return Observation(Presence.FOREIGN, detail=obstacle)
        if info is None or info.owner is None:
            rival = self._rival(hypervisor, resource)
            return Observation(Presence.FOREIGN, detail=rival) if rival else Observation(Presence.ABSENT)
        recorded = record.resource if record and isinstance(record.resource, Network) else resource
        return Observation(Presence.OURS, digest=info.owner.digest, drift=_drift(recorded, info))

    def _obstacle(self, hypervisor: HypervisorView, resource: Network, info: NetworkInfo | None) -> str | None:
        """The object that has the network's UUID (`info`) or name but cannot be used for it, in words, or None."""
        name = ids.host_name(self._lab.lab, resource.name)
        if info is not None and not self._lab.owns_network(info):
            lost = missing_mark(self._lab, info, resource.id)
            return lost.what if lost else f"network {info.name} is there already ({self._lab.whose_is(info)})"
        if info is not None and info.name != name:
            # libvirt cannot rename a network, and guests refer to it by name.
            return (
                f"network {info.name} is this lab's own, but is not called {name}: remove it "
                f"(virsh net-destroy {info.name}; virsh net-undefine {info.name}), and it will be created again"
            )
        named = hypervisor.network(name)
        if named is not None and str(named.uuid) != resource.uuid:
            return f"network {name} is there already ({self._lab.whose_is(named)})"
        return None

    def _rival(self, hypervisor: HypervisorView, resource: Network) -> str | None:
        """Another network that has the bridge or some of the addresses: only one of the two can run."""
        wanted = [subnet for subnet in (IPv4Network(resource.subnet), _network_v6(resource)) if subnet is not None]
        for info in hypervisor.networks():
            if str(info.uuid) == resource.uuid:
                continue
            if info.bridge == resource.bridge:
                return f"bridge {resource.bridge} belongs to network {info.name} ({self._lab.whose_is(info)})"
            # Another network of this lab is removed or gets other addresses in the same plan.
            if self._lab.owns_network(info):
                continue
            for theirs in info.subnets:
                for subnet in wanted:
                    if theirs.overlaps(subnet):
                        return f"subnet {subnet} overlaps {theirs} of network {info.name} ({self._lab.whose_is(info)})"
        return None

    def ensure(self, resource: Network, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous, context
        hypervisor = self._session.get()
        with self._alone():
            obstacle = self._obstacle(hypervisor, resource, hypervisor.network_by_uuid(UUID(resource.uuid)))
            if obstacle is not None:
                raise ConflictError(obstacle, where=resource.id)
            rival = self._rival(hypervisor, resource)
            if rival is not None:
                raise ConflictError(rival, where=resource.id, fix="choose another subnet for one of the labs")
            return self._make(resource, hypervisor)

    def _alone(self) -> AbstractContextManager[None]:
        if self._session.private:
            return nullcontext()
        private_directory(self._lock.parent)
        return exclusive_lock(self._lock, purpose=f"networks of {self._lab.lab}", wait_seconds=self._wait_seconds)

    def _make(self, resource: Network, hypervisor: Hypervisor) -> Handle:
        name = ids.host_name(self._lab.lab, resource.name)
        hypervisor.define_network(
            NetworkRequest(
                name=name,
                uuid=UUID(resource.uuid),
                owner=self._lab.mark(resource.id, resource.digest),
                bridge=resource.bridge,
                subnet=IPv4Network(resource.subnet),
                gateway=IPv4Address(resource.gateway),
                dns_domain=resource.dns_domain,
                hosts=tuple(DhcpHost(host.mac, IPv4Address(host.ip), host.name) for host in resource.hosts),
                names=_names(resource),
                nat=resource.nat,
                subnet_v6=_network_v6(resource),
                gateway_v6=IPv6Address(resource.gateway_v6) if resource.gateway_v6 else None,
            )
        )
        hypervisor.start_network(name)
        return {"name": name}

    def delete(self, resource: Network, handle: Handle, context: ApplyContext) -> None:
        del handle, context
        hypervisor = hypervisor_for_removal(self._session)
        info = hypervisor.network_by_uuid(UUID(resource.uuid)) if hypervisor else None
        if hypervisor is None or info is None:
            return
        if may_remove(self._lab, info, resource.id, private=self._session.private):
            hypervisor.delete_network(info.name)

    def find(self, lab: str) -> Sequence[Resource]:
        del lab
        hypervisor = self._session.view()
        infos = hypervisor.networks() if hypervisor else ()
        return tuple(
            _as_resource(info, info.owner) for info in infos if info.owner is not None and self._lab.owns_network(info)
        )


def _network_v6(resource: Network) -> IPv6Network | None:
    return IPv6Network(resource.subnet_v6) if resource.subnet_v6 else None


def _names(resource: Network) -> tuple[DnsName, ...]:
    """DNS names besides the reservations: IPv6 addresses of the network's own nodes, and the other networks' nodes."""
    own = [DnsName(IPv6Address(host.ip_v6), (host.name,)) for host in resource.hosts if host.ip_v6]
    others = [DnsName(IPv4Address(alias.ip), alias.names) for alias in resource.aliases]
    others_v6 = [DnsName(IPv6Address(alias.ip_v6), alias.names) for alias in resource.aliases if alias.ip_v6]
    return (*own, *others, *others_v6)


def _drift(recorded: Network, info: NetworkInfo) -> tuple[str, ...]:
    """Differences from the record: stopped, or edited by hand. The metadata's digest survives an edit."""
    drift = [] if info.active else ["is not active"]
    drift += [
        f"has {what} {there or 'none'} instead of {wanted or 'none'}"
        for what, there, wanted in _settings(info, recorded)
        if there != wanted
    ]
    stored = _lists(recorded, info, has="has", lacks="has lost")
    drift += stored
    if info.filtered_by_libvirt and recorded.filtering == "firewall":
        drift.append("is filtered by libvirt's rules in addition to the lab's own")
    # The running network can be edited separately, and repaired without a restart.
    if info.live is not None and not stored:
        drift += _lists(recorded, info.live, has="runs with", lacks="runs without")
    return tuple(drift)


def _settings(info: NetworkInfo, recorded: Network) -> Iterator[tuple[str, str, str]]:
    """Settings in words, with the present and the recorded value."""
    yield "the bridge", info.bridge, recorded.bridge
    yield "the subnet", str(info.subnet or ""), recorded.subnet
    if info.gateway is not None:
        yield "the gateway", str(info.gateway), recorded.gateway
    subnet_v6 = str(info.subnet_v6 or "")
    yield "the IPv6 subnet", subnet_v6, recorded.subnet_v6
    if subnet_v6 == recorded.subnet_v6:
        yield "the IPv6 gateway", str(info.gateway_v6 or ""), recorded.gateway_v6
    yield "NAT", _on(info.nat), _on(recorded.nat)


def _on(value: bool) -> str:
    return "on" if value else "off"


def _lists(recorded: Network, info: NetworkInfo, *, has: str, lacks: str) -> list[str]:
    """Differences of reservations and names from the recorded ones."""
    drift = []
    wanted = {(host.mac, host.ip, host.name) for host in recorded.hosts}
    there = {(host.mac, str(host.ip), host.name) for host in info.hosts}
    lost = sorted(name for _mac, _ip, name in wanted - there)
    if lost:
        drift.append(f"{lacks} the addresses of {', '.join(lost)}")
    forgotten = {entry.names[-1] for entry in _names(recorded) if entry not in info.names}
    if forgotten:
        drift.append(f"{lacks} the names of {', '.join(sorted(forgotten))}")
    if more := sorted(name or mac for mac, _ip, name in there - wanted if name not in lost):
        drift.append(f"{has} addresses for {', '.join(more)}, which are not the lab's")
    return drift


def _as_resource(info: NetworkInfo, owner: Ownership) -> Network:
    return Network(
        name=owner.resource_id.partition("/")[2],  # it may have been renamed by hand
        uuid=str(info.uuid),
        bridge=info.bridge,
        subnet=str(info.subnet or ""),
        gateway="",
        dns_domain="",
        hosts=tuple(DhcpReservation(mac=host.mac, ip=str(host.ip), name=host.name) for host in info.hosts),
        nat=False,
    )
