"""The ports between the program and its environment: small protocols that `adapters/` implements.

An adapter translates and never decides. It returns frozen types of this module; raw XML, raw dictionaries and library
objects stay inside it. Every method may raise `HyperscalerError` or a subclass; None never means failure.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Protocol
from uuid import UUID

from emulator.core.ports.guest_accounts import GuestAccount
from emulator.core.ports.processes import Completed as Completed
from emulator.core.ports.processes import ProcessRunner as ProcessRunner
from emulator.core.ports.saved_states import SavedStates

log = logging.getLogger("hyperscaler")


# ---------------------------------------------------------------- hypervisor
class DomainState(StrEnum):
    RUNNING = "running"
    SHUTOFF = "shutoff"
    PAUSED = "paused"
    CRASHED = "crashed"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Ownership:
    """Our metadata mark: the object's owner and the request that made it.

    `digest` is the resource's digest; `home` is the id of the lab's home, empty for objects of older versions.
    """

    lab: str
    resource_id: str
    digest: str
    home: str = ""


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """A domain as libvirt reports it; `owner` is None for a foreign one.

    The fields come from the stored description, which the next start uses; `live` describes the running domain.
    `cmdline` lacks the words that `define_domain` adds for the host's clock. `extras` are phrases for parts that no
    request produces and that were added by hand. `account` is the label of the account that it asks for, or empty.
    `cpu_seconds`: processor time since its start, 0 while it is off.
    """

    name: str
    uuid: UUID
    state: DomainState
    owner: Ownership | None
    autostart: bool = False
    vcpus: int = 0
    memory_mib: int = 0
    macs: tuple[str, ...] = ()
    disks: tuple[Path, ...] = ()
    networks: tuple[str, ...] = ()
    kernel: str = ""
    initrd: str = ""
    cmdline: str = ""
    console_log: str = ""
    accelerated: bool = False
    credentials: tuple[tuple[str, str], ...] = ()
    hostdevs: tuple[Hostdev, ...] = ()
    extras: tuple[str, ...] = ()
    account: str = ""
    live: DomainInfo | None = None
    cpu_seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class DhcpHost:
    """A reservation: the guest with this MAC address gets this IP address and this DNS name."""

    mac: str
    ip: IPv4Address
    name: str


@dataclass(frozen=True, slots=True)
class DnsName:
    """An address and its DNS names, the canonical one first."""

    ip: IPv4Address | IPv6Address
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A network as libvirt reports it; `owner` is None for a foreign one.

    The fields come from the stored description; `live` describes the running network, which `virsh net-update --live`
    can change separately.
    """

    name: str
    uuid: UUID
    active: bool
    owner: Ownership | None
    bridge: str = ""
    subnet: IPv4Network | None = None
    hosts: tuple[DhcpHost, ...] = ()
    names: tuple[DnsName, ...] = ()
    filtered_by_libvirt: bool = False
    gateway: IPv4Address | None = None
    nat: bool = False
    live: NetworkInfo | None = None
    subnet_v6: IPv6Network | None = None
    gateway_v6: IPv6Address | None = None

    @property
    def subnets(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The subnets that it has, of either family."""
        return tuple(subnet for subnet in (self.subnet, self.subnet_v6) if subnet is not None)


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """A libvirt network to define, without libvirt's own packet filter: `PacketFilter` decides what may pass.

    The network's DNS answers for `names` as well as for `hosts`. With `nat` there is a way out, and other names are
    forwarded to the host's own DNS servers; without it they are refused. `subnet_v6` and `gateway_v6` come together or
    not at all; guests set their IPv6 addresses themselves, without DHCP.
    """

    name: str
    uuid: UUID
    owner: Ownership
    bridge: str
    subnet: IPv4Network
    gateway: IPv4Address
    dns_domain: str
    hosts: tuple[DhcpHost, ...]
    names: tuple[DnsName, ...] = ()
    nat: bool = False
    subnet_v6: IPv6Network | None = None
    gateway_v6: IPv6Address | None = None


class HostdevKind(StrEnum):
    """mdev: a mediated device by UUID. vfio_vf: an SR-IOV VF, managed='no'. pci: a whole function, managed='yes'."""

    MDEV = "mdev"
    VFIO_VF = "vfio_vf"
    PCI = "pci"


@dataclass(frozen=True, slots=True)
class Hostdev:
    """A device passed to the guest; `address` is a UUID (mdev) or a PCI address such as 0000:41:00.4."""

    kind: HostdevKind
    address: str


@dataclass(frozen=True, slots=True)
class DomainRequest:
    """A domain to define: direct kernel boot from a golden image, with a qcow2 overlay as its disk.

    `credentials` are systemd credentials passed as SMBIOS OEM strings. They hold public material only, because other
    users of the host can read domain XML. `account` is what QEMU is to run as; None leaves it to libvirt.
    """

    name: str
    uuid: UUID
    owner: Ownership
    vcpus: int
    memory_mib: int
    disk: Path
    kernel: Path
    initrd: Path
    cmdline: str
    network: str
    mac: str
    console_log: Path
    accelerated: bool
    credentials: Mapping[str, str] = field(default_factory=dict)
    hostdevs: tuple[Hostdev, ...] = ()
    account: GuestAccount | None = None


class HypervisorView(Protocol):
    """The contents of a hypervisor. Lookups by name or UUID return None if there is no such object."""

    def domains(self) -> tuple[DomainInfo, ...]: ...
    def domain(self, name: str) -> DomainInfo | None: ...
    def domain_by_uuid(self, uuid: UUID) -> DomainInfo | None: ...
    def networks(self) -> tuple[NetworkInfo, ...]: ...
    def network(self, name: str) -> NetworkInfo | None: ...
    def network_by_uuid(self, uuid: UUID) -> NetworkInfo | None: ...


class Hypervisor(HypervisorView, SavedStates, Protocol):
    """A libvirt connection. Deletes are idempotent."""

    def admit_guests(self, directories: Iterable[Path], account: GuestAccount | None = None) -> None:
        """Let the account's group, or libvirt's own, pass through directories of ours to its files, and list none."""
        ...

    def define_domain(self, request: DomainRequest) -> None:
        """Define without starting. A domain with the same UUID is redefined.

        Raises:
            ConflictError: the name belongs to a domain with another UUID.
        """
        ...

    def rename_domain(self, name: str, new: str) -> None:
        """Rename a domain that is off.

        Raises:
            HypervisorError: the domain runs or has snapshots.
            ConflictError: another domain has the new name.
        """
        ...

    def start_domain(self, name: str) -> None:
        """Start; a running domain is left alone, a paused one is resumed."""
        ...

    def pause_domain(self, name: str) -> None:
        """Stop the guest's processors until `start_domain`; nothing happens if it is absent or does not run."""
        ...

    def shutdown_domain(self, name: str, *, timeout: float) -> None:
        """Ask the guest to power off; hard after `timeout` seconds once idle, at most after four times that."""
        ...

    def delete_domain(self, name: str) -> None:
        """Power off hard and undefine; nothing happens if the domain is absent."""
        ...

    def define_network(self, request: NetworkRequest) -> None:
        """Define and start. Our network with the same UUID is updated in place if libvirt can (DHCP hosts are added and
        removed without a restart), otherwise restarted."""
        ...

    def start_network(self, name: str) -> None: ...
    def delete_network(self, name: str) -> None: ...
    def guest_command_prefix(self) -> tuple[str, ...]:
        """Argv prefix for commands that must reach the guests: empty, or entering the namespace."""
        ...

    def close(self) -> None: ...


class DiskTool(Protocol):
    """qemu-img."""

    def create_overlay(self, path: Path, *, base: Path, size_gib: int) -> None:
        """Create a qcow2 overlay of `size_gib` (at least the base's size) on the qcow2 `base`. It is written to a
        temporary name, fsynced and renamed, so that `path` never holds a half-made overlay."""
        ...

    def freeze(self, path: Path, frozen: Path) -> None:
        """Give the disk at `path` the name `frozen`, closed to writing, and put an empty overlay of the same size on it
        in its place. No running domain uses it. `path` is one or the other at any time; done already, it is left so."""
        ...

    def rewind(self, path: Path, *, base: Path) -> None:
        """Put an empty overlay of the same size on the qcow2 `base` in the place of the disk at `path`, in one step."""
        ...

    def resize(self, path: Path, *, size_gib: int) -> None:
        """Grow a qcow2 that no running domain uses. The same size changes nothing; shrinking is refused."""
        ...

    def size_gib(self, path: Path) -> int:
        """Virtual size, rounded down."""
        ...

    def overlay_base(self, path: Path) -> Path | None:
        """The backing file of a qcow2; None if the file is absent or not an overlay.

        Raises:
            DamagedDiskError: the file was read and is not a usable qcow2.
            HyperscalerError: the file could not be read, which proves nothing about the disk.
        """
        ...


@dataclass(frozen=True, slots=True)
class GuestAddress:
    """Address and host key of a guest for ssh."""

    name: str
    ip: IPv4Address
    user: str


class GuestShell(Protocol):
    """Runs commands in the guests of one lab by ssh, with host keys checked; seconds are a fast host's (0016)."""

    def run(
        self,
        guest: GuestAddress,
        command: str,
        *,
        timeout: float,
        check: bool = True,
        stdin: str | None = None,
    ) -> Completed:
        """Run one shell command line in the guest."""
        ...

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        """Whether ssh accepts our login in time; False if it is refused or unreachable."""
        ...


class DaemonPresence(StrEnum):
    """State of the lab's own libvirtd: absent, remains without a running daemon, or up."""

    ABSENT = "absent"
    DOWN = "down"
    UP = "up"


class HypervisorDaemon(Protocol):
    """An embedded libvirtd with its namespaces. All methods are idempotent."""

    def presence(self) -> DaemonPresence: ...

    def uri(self) -> str:
        """Its libvirt URI, valid while it is up; changes nothing."""
        ...

    def start(self) -> str:
        """Start it, completing whatever parts exist, and return its libvirt URI. The caller holds the lab's lock."""
        ...

    def stop(self) -> None:
        """End all its processes, guests included, and remove namespaces and directories."""
        ...


class HypervisorSession(Protocol):
    """The hypervisor connection of one run, opened on first use and shared by its threads."""

    @property
    def private(self) -> bool:
        """Whether the hypervisor is the lab's own. If it does not run, none of its domains are left to remove."""
        ...

    def reset(self) -> None:
        """Drop the connection after the hypervisor was started or stopped."""
        ...

    def peek(self) -> Hypervisor | None:
        """The connection if the hypervisor runs, else None; never starts anything."""
        ...

    def view(self) -> HypervisorView | None:
        """The hypervisor's contents if it runs. During planning this is a snapshot from the start of the planning."""
        ...

    def get(self) -> Hypervisor:
        """The connection.

        Raises:
            HypervisorError: the hypervisor does not run or does not answer.
        """
        ...
