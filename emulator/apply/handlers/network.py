"""libvirt networks."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from uuid import UUID

from emulator import ids
from emulator.apply.handler import ApplyContext, Handle
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import DhcpReservation, Network, Resource
from emulator.ports import DhcpHost, HypervisorSession, NetworkInfo, NetworkRequest, Ownership


class NetworkHandler:
    def __init__(self, session: HypervisorSession, lab: str) -> None:
        self._session = session
        self._lab = lab

    def observe(self, resource: Network, record: Recorded | None) -> Observation:
        hypervisor = self._session.peek()
        if hypervisor is None:
            if record is None:
                return Observation(Presence.ABSENT)
            return Observation(Presence.UNKNOWN, detail="its hypervisor does not run")
        name = ids.host_name(self._lab, resource.name)
        info = hypervisor.network(name)
        if info is None:
            rival = next((net for net in hypervisor.networks() if net.bridge == resource.bridge), None)
            if rival is not None:
                text = f"bridge {resource.bridge} belongs to network {rival.name}{_owner(rival)}"
                return Observation(Presence.FOREIGN, detail=text)
            return Observation(Presence.ABSENT)
        if info.owner is None or info.owner.lab != self._lab:
            return Observation(Presence.FOREIGN, detail=f"network {name} is there already{_owner(info)}")
        drift = () if info.active else ("is not active",)
        return Observation(Presence.OURS, digest=info.owner.digest, drift=drift)

    def ensure(self, resource: Network, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous, context
        name = ids.host_name(self._lab, resource.name)
        hypervisor = self._session.get()
        hypervisor.define_network(
            NetworkRequest(
                name=name,
                uuid=UUID(resource.uuid),
                owner=Ownership(self._lab, resource.id, resource.digest),
                bridge=resource.bridge,
                subnet=IPv4Network(resource.subnet),
                gateway=IPv4Address(resource.gateway),
                dns_domain=resource.dns_domain,
                hosts=tuple(DhcpHost(host.mac, IPv4Address(host.ip), host.name) for host in resource.hosts),
                nat=resource.nat,
            )
        )
        hypervisor.start_network(name)
        return {"name": name}

    def delete(self, resource: Network, handle: Handle, context: ApplyContext) -> None:
        del handle, context
        # The guests of a private hypervisor that does not run ended with it; any other must answer.
        hypervisor = self._session.peek() if self._session.private else self._session.get()
        name = ids.host_name(self._lab, resource.name)
        info = hypervisor.network(name) if hypervisor else None
        if hypervisor and info and info.owner and info.owner.lab == self._lab:
            hypervisor.delete_network(name)

    def find(self, lab: str) -> Sequence[Resource]:
        hypervisor = self._session.peek()
        infos = hypervisor.networks() if hypervisor else ()
        return tuple(_as_resource(lab, info) for info in infos if info.owner and info.owner.lab == lab)


def _owner(info: NetworkInfo) -> str:
    return f" (of lab {info.owner.lab})" if info.owner else " (not made by hyperscaler)"


def _as_resource(lab: str, info: NetworkInfo) -> Network:
    return Network(
        name=info.name.removeprefix(f"{lab}-"),
        uuid=str(info.uuid),
        bridge=info.bridge,
        subnet=str(info.subnet or ""),
        gateway="",
        dns_domain="",
        hosts=tuple(DhcpReservation(mac=host.mac, ip=str(host.ip), name=host.name) for host in info.hosts),
        nat=False,
    )
