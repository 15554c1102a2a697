"""libvirt network XML, written from a `NetworkRequest` and read back. Pure."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeVar

from emulator.adapters.libvirt.ownership_xml import add_owner, parse, read_owner, render, text_of, uuid_of
from emulator.core.errors import HypervisorError
from emulator.core.ports import DhcpHost, DnsName, NetworkInfo, NetworkRequest

DNSMASQ_URI = "http://libvirt.org/schemas/network/dnsmasq/1.0"
_OPTIONS = f"{{{DNSMASQ_URI}}}options"
_OPTION = f"{{{DNSMASQ_URI}}}option"

ET.register_namespace("dnsmasq", DNSMASQ_URI)

A = TypeVar("A", IPv4Address, IPv6Address)
N = TypeVar("N", IPv4Network, IPv6Network)


def network_xml(request: NetworkRequest) -> str:
    """The `<network>` for a request.

    There is no `<range>`: with reservations alone libvirt starts dnsmasq with a static range, which answers known MAC
    addresses only. The names are given twice, as DHCP and as DNS hosts, because dnsmasq answers a DHCP name only after
    its guest has taken a lease, and Slurm resolves all node names at its start.

    The mode is `open`: libvirt's rules for the other modes refuse traffic that the lab allows between its networks, and
    no accept elsewhere can overrule them. In one more respect an isolated network of libvirt is imitated by an option
    of dnsmasq: it does not forward the guests' questions to the host's DNS servers, which would be a way out as well.

    With an IPv6 address libvirt always makes dnsmasq advertise the router. The nodes have static addresses and routes
    and ignore advertisements.
    """
    network = ET.Element("network")
    ET.SubElement(network, "name").text = request.name
    ET.SubElement(network, "uuid").text = str(request.uuid)
    add_owner(network, request.owner)
    ET.SubElement(network, "forward", mode="open")
    # No spanning tree and no delay: there are no loops, and a delay would cost a guest its first DHCP answer.
    ET.SubElement(network, "bridge", name=request.bridge, stp="off", delay="0")
    # localOnly: unknown names of the lab's domain are answered with "no such name" instead of being forwarded.
    ET.SubElement(network, "domain", name=request.dns_domain, localOnly="yes")
    dns = ET.SubElement(network, "dns")
    for host in request.hosts:
        dns.append(_dns_name(dns_name_of(host)))
    for name in request.names:
        dns.append(_dns_name(name))
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
    if request.subnet_v6 is not None:
        prefix = str(request.subnet_v6.prefixlen)
        ET.SubElement(network, "ip", family="ipv6", address=str(request.gateway_v6), prefix=prefix)
    if not request.nat:
        ET.SubElement(ET.SubElement(network, _OPTIONS), _OPTION, value="no-resolv")
    return render(network)


def dhcp_host_xml(host: DhcpHost) -> str:
    """The `<host>` of a reservation, for a live update."""
    return render(_dhcp_host(host))


def dns_name_of(host: DhcpHost) -> DnsName:
    """The DNS entry of a reservation."""
    return DnsName(host.ip, (host.name,))


def dns_name_xml(name: DnsName) -> str:
    """A DNS `<host>` without a reservation, for a live update."""
    return render(_dns_name(name))


def dns_address_xml(ip: IPv4Address | IPv6Address) -> str:
    """The DNS `<host>` to remove, by its address alone: by name libvirt would also find the entry of the other family
    and refuse to choose."""
    return render(_dns_name(DnsName(ip, ())))


def read_network(text: str, *, active: bool) -> NetworkInfo:
    """A network as libvirt describes it.

    Raises:
        HypervisorError: the text is not a network.
    """
    root = parse(text, "network")
    bridge = root.find("bridge")
    ip, ip_v6 = _ip(root, "ipv4"), _ip(root, "ipv6")
    return NetworkInfo(
        name=text_of(root, "name"),
        uuid=uuid_of(root),
        active=active,
        owner=read_owner(root),
        bridge=bridge.get("name", "") if bridge is not None else "",
        subnet=_subnet(ip, IPv4Network, "32"),
        hosts=() if ip is None else tuple(_hosts(ip)),
        names=tuple(_names(root, set() if ip is None else {host.ip for host in _hosts(ip)})),
        filtered_by_libvirt=_mode(root) != "open",
        gateway=_gateway(ip, IPv4Address),
        nat=read_nat(text),
        subnet_v6=_subnet(ip_v6, IPv6Network, "64"),
        gateway_v6=_gateway(ip_v6, IPv6Address),
    )


def read_nat(text: str) -> bool:
    """Whether the network's DNS forwards to the host's, which it does if there is a way out."""
    root = parse(text, "network")
    options = [option.get("value") for option in root.iterfind(f"{_OPTIONS}/{_OPTION}")]
    return _mode(root) in ("open", "nat") and "no-resolv" not in options


def _mode(root: ET.Element) -> str:
    """`open`, `nat`, ...; empty for an isolated network."""
    forward = root.find("forward")
    return "" if forward is None else forward.get("mode", "nat")


def read_gateway_and_domain(text: str) -> tuple[str, str]:
    """The bridge's own address and the DNS domain; empty if there is none."""
    root = parse(text, "network")
    ip, domain = _ip(root, "ipv4"), root.find("domain")
    return (
        ip.get("address", "") if ip is not None else "",
        domain.get("name", "") if domain is not None else "",
    )


def _dhcp_host(host: DhcpHost) -> ET.Element:
    return ET.Element("host", mac=host.mac, name=host.name, ip=str(host.ip))


def _dns_name(name: DnsName) -> ET.Element:
    element = ET.Element("host", ip=str(name.ip))
    for each in name.names:
        ET.SubElement(element, "hostname").text = each
    return element


def _ip(root: ET.Element, family: str) -> ET.Element | None:
    return next((ip for ip in root.findall("ip") if ip.get("family", "ipv4") == family), None)


def _subnet(ip: ET.Element | None, kind: type[N], prefix: str) -> N | None:
    """The network of an `<ip>`; without a prefix libvirt assumes `prefix`."""
    if ip is None or not ip.get("address"):
        return None
    mask = ip.get("netmask") or ip.get("prefix") or prefix
    try:
        return kind(f"{ip.get('address')}/{mask}", strict=False)
    except ValueError as error:
        raise HypervisorError(f"libvirt reported an invalid address: {error}") from error


def _gateway(ip: ET.Element | None, kind: type[A]) -> A | None:
    try:
        return kind(ip.get("address", "")) if ip is not None else None
    except AddressValueError:
        return None


def _hosts(ip: ET.Element) -> list[DhcpHost]:
    """The reservations. A foreign network may have some without a MAC or IP address; these are skipped."""
    hosts = []
    for element in ip.findall("dhcp/host"):
        mac, address = element.get("mac"), element.get("ip")
        if not mac or not address:
            continue
        try:
            hosts.append(DhcpHost(mac=mac.lower(), ip=IPv4Address(address), name=element.get("name", "")))
        except AddressValueError as error:
            raise HypervisorError(f"libvirt reported an invalid address: {error}") from error
    return hosts


def _names(root: ET.Element, reserved: set[IPv4Address]) -> list[DnsName]:
    """DNS names of addresses without a reservation."""
    found = []
    for element in root.findall("dns/host"):
        try:
            address = ip_address(element.get("ip", ""))
        except ValueError:
            continue
        if address not in reserved:
            found.append(DnsName(address, tuple((name.text or "").strip() for name in element.findall("hostname"))))
    return found
