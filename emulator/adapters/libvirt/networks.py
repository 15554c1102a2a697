"""Networks on a libvirt connection: the network part of `LibvirtHypervisor`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

from emulator.adapters.libvirt import errors as errors
from emulator.adapters.libvirt import network_xml
from emulator.adapters.libvirt.errors import call, load_libvirt, tolerate
from emulator.core.errors import ConflictError, HyperscalerError
from emulator.core.ports import DhcpHost, DnsName, NetworkInfo, NetworkRequest


class LibvirtNetworks:
    """`connect` returns the live connection."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect

    def all(self) -> tuple[NetworkInfo, ...]:
        found = call(self._connect().listAllNetworks, where="networks")
        infos = (self._describe(handle) for handle in found)
        return tuple(sorted((info for info in infos if info), key=lambda info: info.name))

    def find(self, name: str) -> NetworkInfo | None:
        handle = self._lookup(name)
        return self._describe(handle) if handle is not None else None

    def find_by_uuid(self, uuid: UUID) -> NetworkInfo | None:
        connection, where = self._connect(), f"network {uuid}"
        handle = tolerate((errors.NO_NETWORK,), lambda: connection.networkLookupByUUIDString(str(uuid)), where=where)
        return self._describe(handle) if handle is not None else None

    def define(self, request: NetworkRequest) -> None:
        """See `Hypervisor.define_network`. Any change except of reservations and names restarts the network, which
        cuts off running guests until they are restarted."""
        where = f"network {request.name}"
        handle = self._lookup(request.name)
        if handle is not None:
            self._refuse_foreign(handle, request, where)
            if call(handle.isActive, where=where):
                self._update(handle, request, where)
        xml = network_xml.network_xml(request)
        # Done for a running network as well: it changes the stored description, whose metadata records the applied
        # request. libvirt 9.0 has no separate call for a network's metadata. It comes last, so that an interrupted
        # update still shows the old digest and is repeated.
        call(lambda: self._connect().networkDefineXML(xml), where=where)
        self.start(request.name)

    def start(self, name: str) -> None:
        """Start; nothing happens if the network is active."""
        where = f"network {name}"
        connection = self._connect()
        handle = call(lambda: connection.networkLookupByName(name), where=where)
        if not call(handle.isActive, where=where):
            try:
                call(handle.create, where=where)
            except HyperscalerError:
                if not call(handle.isActive, where=where):
                    raise

    def delete(self, name: str) -> None:
        """Stop and undefine; nothing happens if the network is absent."""
        where = f"network {name}"
        handle = self._lookup(name)
        if handle is None:
            return
        if tolerate((errors.NO_NETWORK,), handle.isActive, where=where):
            tolerate((errors.NO_NETWORK, errors.OPERATION_INVALID), handle.destroy, where=where)
        tolerate((errors.NO_NETWORK,), handle.undefine, where=where)

    def _refuse_foreign(self, handle: Any, request: NetworkRequest, where: str) -> None:
        uuid = call(handle.UUIDString, where=where)
        if uuid != str(request.uuid):
            raise ConflictError(
                f"a network of this name with another UUID ({uuid}) exists",
                where=where,
                fix=f"if it is not needed: virsh net-undefine {request.name}",
            )

    def _update(self, handle: Any, request: NetworkRequest, where: str) -> None:
        """Adapt the running network to the request: reservations and names one by one, anything else by stopping it."""
        text = call(lambda: handle.XMLDesc(0), where=where)
        running = network_xml.read_network(text, active=True)
        # libvirt writes the DHCP range into dnsmasq's configuration at its start, so a live update can neither add the
        # first reservation nor remove the last one.
        if _shape(text, running) != _wanted_shape(request) or bool(running.hosts) != bool(request.hosts):
            tolerate((errors.OPERATION_INVALID,), handle.destroy, where=where)
            return
        libvirt = load_libvirt()
        remove, add = libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE, libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST
        # Removals before additions, because libvirt identifies a DNS host by its address.
        for name in running.names:
            if name not in request.names:
                self._change_name(handle, remove, name, where)
        for command, here, there in ((remove, running.hosts, request.hosts), (add, request.hosts, running.hosts)):
            for host in here:
                if host not in there:
                    self._change_host(handle, command, host, where)
        for name in request.names:
            if name not in running.names:
                self._change_name(handle, add, name, where)

    @staticmethod
    def _change_name(handle: Any, command: int, name: DnsName, where: str) -> None:
        libvirt = load_libvirt()
        live, dns = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE, libvirt.VIR_NETWORK_SECTION_DNS_HOST
        text = _dns_xml(command, name)
        call(lambda: handle.update(command, dns, -1, text, live), where=f"{where}: name {name.names[0]}")

    @staticmethod
    def _change_host(handle: Any, command: int, host: DhcpHost, where: str) -> None:
        libvirt = load_libvirt()
        live = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE
        # DNS first: the run after an interrupted one then finds the reservation unchanged and comes back here, where a
        # name that is already present (or absent) is no error.
        dns = libvirt.VIR_NETWORK_SECTION_DNS_HOST
        dns_text = _dns_xml(command, network_xml.dns_name_of(host))
        tolerate((errors.OPERATION_INVALID,), lambda: handle.update(command, dns, -1, dns_text, live), where=where)
        dhcp = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
        dhcp_text = network_xml.dhcp_host_xml(host)
        # The first IPv4 element of the network; -1 finds the one with DHCP.
        call(lambda: handle.update(command, dhcp, -1, dhcp_text, live), where=f"{where}: host {host.name}")

    def _lookup(self, name: str) -> Any:
        connection = self._connect()
        return tolerate((errors.NO_NETWORK,), lambda: connection.networkLookupByName(name), where=f"network {name}")

    @staticmethod
    def _describe(handle: Any) -> NetworkInfo | None:
        """The network, or None if it has vanished since it was listed."""
        where = f"network {handle.name()}"
        harmless = (errors.NO_NETWORK,)
        flags = load_libvirt().VIR_NETWORK_XML_INACTIVE
        text = tolerate(harmless, lambda: handle.XMLDesc(flags), where=where)
        if text is None:
            return None
        active = tolerate(harmless, handle.isActive, where=where)
        info = network_xml.read_network(text, active=bool(active))
        live = tolerate(harmless, lambda: handle.XMLDesc(0), where=where) if active else None
        return info if live is None else replace(info, live=network_xml.read_network(live, active=True))


def _dns_xml(command: int, name: DnsName) -> str:
    gone = command == load_libvirt().VIR_NETWORK_UPDATE_COMMAND_DELETE
    return network_xml.dns_address_xml(name.ip) if gone else network_xml.dns_name_xml(name)


def _shape(text: str, info: NetworkInfo) -> tuple[object, ...]:
    gateway, domain = network_xml.read_gateway_and_domain(text)
    addresses = str(info.subnet), gateway, info.subnet_v6, info.gateway_v6
    return info.bridge, *addresses, domain, network_xml.read_nat(text), info.filtered_by_libvirt


def _wanted_shape(request: NetworkRequest) -> tuple[object, ...]:
    addresses = str(request.subnet), str(request.gateway), request.subnet_v6, request.gateway_v6
    return request.bridge, *addresses, request.dns_domain, request.nat, False
