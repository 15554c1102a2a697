"""libvirt network XML, written from a `NetworkRequest` and read back. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from uuid import UUID

from emulator.adapters.ownership_xml import add_owner, parse, read_owner, render, text_of
from emulator.errors import HypervisorError
from emulator.ports import DhcpHost, NetworkInfo, NetworkRequest


def network_xml(request: NetworkRequest) -> str:
    """The `<network>` of a request.

    There is no `<range>`: with reservations alone libvirt starts dnsmasq with a static range, which answers the
    known MAC addresses and nobody else. The names are given twice, as DHCP and as DNS hosts, because dnsmasq
    answers a DHCP name only after its guest has taken a lease, and Slurm resolves all node names at its start.
    """
    network = ET.Element("network")
    ET.SubElement(network, "name").text = request.name
    ET.SubElement(network, "uuid").text = str(request.uuid)
    add_owner(network, request.owner)
    if request.nat:
        ET.SubElement(network, "forward", mode="nat")
    # No spanning tree and no delay: there are no loops, and a delay keeps a guest from its first DHCP answer.
    ET.SubElement(network, "bridge", name=request.bridge, stp="off", delay="0")
    # localOnly: names of the lab's domain that are not known are answered with "no such name", not forwarded.
    ET.SubElement(network, "domain", name=request.dns_domain, localOnly="yes")
    dns = ET.SubElement(network, "dns")
    for host in request.hosts:
        dns.append(_dns_host(host))
    ip = ET.SubElement(
        network,
        "ip",
        address=str(request.gateway),
        netmask=str(request.subnet.netmask),
    )
    if request.hosts:
        dhcp = ET.SubElement(ip, "dhcp")
        for host in request.hosts:
            dhcp.append(_dhcp_host(host))
    return render(network)


def dhcp_host_xml(host: DhcpHost) -> str:
    """The `<host>` of a reservation, for a live update."""
    return render(_dhcp_host(host))


def dns_host_xml(host: DhcpHost) -> str:
    """The DNS `<host>` of a reservation, for a live update."""
    return render(_dns_host(host))


def read_network(text: str, *, active: bool) -> NetworkInfo:
    """A network as libvirt describes it.

    Raises:
        HypervisorError: the text is not a network.
    """
    root = parse(text, "network")
    bridge = root.find("bridge")
    ip = _ipv4(root)
    return NetworkInfo(
        name=text_of(root, "name"),
        uuid=UUID(text_of(root, "uuid")),
        active=active,
        owner=read_owner(root),
        bridge=bridge.get("name", "") if bridge is not None else "",
        subnet=_subnet(ip),
        hosts=() if ip is None else tuple(_hosts(ip)),
    )


def read_nat(text: str) -> bool:
    """Whether the network forwards with NAT."""
    forward = parse(text, "network").find("forward")
    return forward is not None and forward.get("mode") == "nat"


def read_gateway_and_domain(text: str) -> tuple[str, str]:
    """The bridge's own address and the DNS domain; empty where there is none."""
    root = parse(text, "network")
    ip, domain = _ipv4(root), root.find("domain")
    return (
        ip.get("address", "") if ip is not None else "",
        domain.get("name", "") if domain is not None else "",
    )


def _dhcp_host(host: DhcpHost) -> ET.Element:
    return ET.Element("host", mac=host.mac, name=host.name, ip=str(host.ip))


def _dns_host(host: DhcpHost) -> ET.Element:
    element = ET.Element("host", ip=str(host.ip))
    ET.SubElement(element, "hostname").text = host.name
    return element


def _ipv4(root: ET.Element) -> ET.Element | None:
    return next((ip for ip in root.findall("ip") if ip.get("family", "ipv4") == "ipv4"), None)


def _subnet(ip: ET.Element | None) -> IPv4Network | None:
    if ip is None or not ip.get("address"):
        return None
    mask = ip.get("netmask") or ip.get("prefix") or "32"
    try:
        return IPv4Network(f"{ip.get('address')}/{mask}", strict=False)
    except ValueError as error:
        raise HypervisorError(f"libvirt reported an address that is none: {error}") from error


def _hosts(ip: ET.Element) -> list[DhcpHost]:
    """The reservations; those of a foreign network that lack a MAC or an address are not of our kind."""
    hosts = []
    for element in ip.findall("dhcp/host"):
        mac, address = element.get("mac"), element.get("ip")
        if not mac or not address:
            continue
        try:
            hosts.append(DhcpHost(mac=mac.lower(), ip=IPv4Address(address), name=element.get("name", "")))
        except AddressValueError as error:
            raise HypervisorError(f"libvirt reported an address that is none: {error}") from error
    return hosts
