"""Values that several keys of the lab file hold, with the way each is written."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated

from emulator.core.address_ranges import PRIVATE, is_within
from emulator.core.units import gib_to_mib
from emulator.labfile.addresses import AddressRange, parse_range
from emulator.labfile.findings import quoted
from emulator.labfile.key import UnusableError, key
from emulator.labfile.values.hostlist import expand_hostlist
from emulator.labfile.values.slurm_time import FORMS, parse_slurm_time

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
PARTITION_NAME = "^[A-Za-z][A-Za-z0-9_-]{0,62}$"
PROFILE = r"^[1-9][0-9]?g\.[0-9]{1,4}gb(?:[+.-][a-z][a-z.+-]{0,15})?$"


def subnet_v4(text: str) -> IPv4Network:
    """The network of an address in it; whether the text is that of the network is for the checks to say."""
    return IPv4Network(text, strict=False)


def subnet_v6(text: str) -> IPv6Network:
    try:
        return IPv6Network(text, strict=False)
    except ValueError:  # the schema does not count groups of digits
        what, fix = f"{text} is no IPv6 network", "for example fd12:3456:789a:100::/64"
        raise UnusableError("network.subnet-v6", what, fix) from None


def private_range(text: str) -> str:
    """A range of private addresses, in its shortest form."""
    try:
        network = ip_network(text)
    except ValueError as error:
        what = f"{quoted(text)} is not a network: {error}"
        raise UnusableError("network.nat-private", what, "for example 10.20.0.0/16") from None
    known = [ip_network(each) for ranges in PRIVATE.values() for each in ranges]
    if not any(is_within(network, each) for each in known):
        listed = ", ".join(each for ranges in PRIVATE.values() for each in ranges)
        what = f"{network} is not a private range"
        fix = f"list parts of {listed}; public addresses need no entry, and link-local ones are never reached"
        raise UnusableError("network.nat-private", what, fix)
    return str(network)


def address_range(text: str) -> AddressRange:
    try:
        return parse_range(text)
    except ValueError as error:
        fix = "write the lower address first, each number at most 255"
        raise UnusableError("address.range", str(error), fix) from None


def node_list(text: str) -> str:
    """The text of a host list that can be expanded."""
    try:
        expand_hostlist(text)
    except ValueError as error:
        what = f"{quoted(text)} names no nodes: {error}"
        raise UnusableError("slurm.node", what, "for example hpc-compute-1 or hpc-compute-[1-2]") from None
    return text


def apt_source(line: str) -> str:
    """The line with single blanks and without its comment."""
    return " ".join(line.partition("#")[0].split())


def job_time(text: str) -> int | None:
    """Seconds; None for no limit."""
    try:
        return parse_slurm_time(text)
    except ValueError as error:
        what = f"{quoted(text)} is not a time limit: {error}"
        raise UnusableError("slurm.time", what, f"write {FORMS}, for example 24:00:00") from None


def mib_to_gib(mib: int) -> float:
    return mib // 1024 if mib % 1024 == 0 else mib / 1024


def port(value: str | float) -> str:
    """A port or a range as text."""
    return value if isinstance(value, str) else str(int(value))


def pci_address(text: str) -> str:
    """`65:00.0` and NVML's `00000000:65:00.0` as the kernel writes it: `0000:65:00.0`."""
    domain, _, rest = text.lower().rpartition(":")[0].rpartition(":")
    device = text.lower().rpartition(":")[2]
    return f"{int(domain or '0', 16):04x}:{rest}:{device}"


Subnet = Annotated[
    IPv4Network, key(pattern=rf"^{_IPV4}/(?:[0-9]|[12][0-9]|3[0-2])$", expects="an IPv4 network", read=subnet_v4)
]
SubnetV6 = Annotated[
    IPv6Network,
    key(
        pattern="^[0-9A-Fa-f:]{2,39}/[0-9]{1,3}$",
        expects="an IPv6 network such as fd12:3456:789a:100::/64",
        examples=["fd12:3456:789a:100::/64"],
        read=subnet_v6,
    ),
]
PrivateRange = Annotated[
    str,
    key(
        pattern="^[0-9A-Fa-f:.]{2,39}/[0-9]{1,3}$",
        expects="a network such as 10.20.0.0/16",
        examples=["10.20.0.0/16", "fd12:3456::/32"],
        read=private_range,
    ),
]
Address = Annotated[
    AddressRange,
    key(
        pattern=f"^{_IPV4}$",
        expects="an IPv4 address such as 192.168.100.10",
        examples=["192.168.100.10"],
        read=address_range,
    ),
]
Addresses = Annotated[
    AddressRange,
    key(
        pattern=f"^{_IPV4}(?:-(?:{_IPV4}|[0-9]{{1,3}}))?$",
        expects="addresses such as 192.168.100.11-14, 192.168.100.11 or 192.168.100.11-192.168.100.14",
        examples=["192.168.100.11-14", "192.168.100.11", "192.168.100.11-192.168.100.14"],
        read=address_range,
    ),
]
Bridge = Annotated[
    str,
    key(
        pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,14}$",
        expects="an interface name of at most 15 letters, digits, '_' and '-'",
        examples=["virbr100"],
    ),
]
PciAddress = Annotated[
    str,
    key(
        pattern=r"^(?:[0-9A-Fa-f]{4}(?:[0-9A-Fa-f]{4})?:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f]\.[0-7]$",
        expects="a PCI address such as 0000:65:00.0 (see lspci -D)",
        examples=["0000:65:00.0"],
        read=pci_address,
    ),
]
Profile = Annotated[
    str,
    key(
        "MIG profile name as NVIDIA writes it.",
        pattern=PROFILE,
        expects="a MIG profile such as 1g.10gb",
        examples=["1g.10gb", "3g.40gb"],
    ),
]
PartitionName = Annotated[
    str,
    key(
        pattern=PARTITION_NAME,
        expects="a partition name such as gpu (letters, digits, '_', '-'; a letter first)",
    ),
]
JobTime = Annotated[
    int,
    key(
        type="string",
        maxLength=32,
        examples=["24:00:00", "7-00", "UNLIMITED"],
        read=job_time,
    ),
]
Image = Annotated[
    str,
    key(
        pattern="^[a-z0-9][a-z0-9._:@+-]{0,127}$",
        expects="the name of a golden image such as hpc-base, also hpc-base:TAG",
    ),
]
Seconds = Annotated[int, key(minimum=10, maximum=86400)]
NodePort = Annotated[int, key("Port of a service.", minimum=30000, maximum=32767)]
# In the file GiB, and here MiB.
Memory = Annotated[
    int,
    key(
        type="number",
        minimum=0.25,
        maximum=4096,
        multipleOf=0.25,
        examples=[2, 16],
        read=gib_to_mib,
        write=mib_to_gib,
    ),
]
Port = Annotated[
    str,
    key(
        type=["integer", "string"],
        minimum=1,
        maximum=65535,
        pattern="^[0-9]{1,5}(?:-[0-9]{1,5})?$",
        expects="a port from 1 to 65535 or a range such as 8000-8100",
        read=port,
    ),
]
# One line of sources.list (5): type, options in brackets, URI, suite, components, comment; anything that could mean
# something to a shell or a template is not part of any of them.
_APT_LINE = (
    r"^deb(?:-src)?[ \t]+"
    r"(?:\[[A-Za-z0-9=,:/.+_ -]{1,200}\][ \t]+)?"
    r"[a-z][a-z0-9+.-]{1,20}:[A-Za-z0-9:/?@!$&'()*+,;=._~%\[\]-]{1,500}[ \t]+"
    r"[A-Za-z0-9/$()._+~-]{1,100}"
    r"(?:[ \t]+[A-Za-z0-9][A-Za-z0-9/._+-]{0,39}){0,16}"
    r"[ \t]*(?:#[ -~]{0,200})?$"
)
AptSource = Annotated[
    str,
    key(
        pattern=_APT_LINE,
        expects="a line such as deb http://mirror.lan/debian bookworm main",
        examples=["deb http://mirror.lan/debian bookworm main"],
        read=apt_source,
    ),
]
NodeList = Annotated[str, key(minLength=1, maxLength=255, read=node_list)]
NodeName = Annotated[str, key(minLength=1, maxLength=63)]
