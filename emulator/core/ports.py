"""The seams between the program and the world: small protocols that `adapters/` implements.

An adapter translates and never decides. What comes back is a frozen type of this module; raw XML, raw
dictionaries and library objects stay inside the adapter. Every method may raise `HyperscalerError` or a
subclass; none returns None to say that something failed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Protocol
from uuid import UUID

log = logging.getLogger("hyperscaler")


# ---------------------------------------------------------------- processes
@dataclass(frozen=True, slots=True)
class Completed:
    """An ended process. `stdout` and `stderr` are decoded as UTF-8 with replacement."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


class ProcessRunner(Protocol):
    """Runs host commands. No shell, ever."""

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout: float,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        cwd: Path | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run `argv` to its end. A command that prints without end is ended with an error, whatever `check` says.

        Args:
            argv: program and arguments.
            timeout: seconds; at the deadline the whole process group is killed.
            check: raise `CommandError` on a non-zero exit status.
            env: variables added to the environment (never a secret in argv: pass it here or on stdin).
            stdin: text fed to the process; otherwise its standard input is empty.
            on_line: called with each line of combined output as it appears; stdout is then also returned.
        """
        ...


# ---------------------------------------------------------------- hypervisor
class DomainState(StrEnum):
    RUNNING = "running"
    SHUTOFF = "shutoff"
    PAUSED = "paused"
    CRASHED = "crashed"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Ownership:
    """Our metadata element: whose the object is and which request made it. `digest` is the resource's digest, `home`
    the id of the home directory that the lab is in, empty where an older version made the object."""

    lab: str
    resource_id: str
    digest: str
    home: str = ""


@dataclass(frozen=True, slots=True)
class DomainInfo:
    """A domain as libvirt reports it; `owner` None means that it is not ours.

    The fields are those of the stored description, which the next start uses; `live` has those that it runs with.
    `cmdline` is without what `define_domain` adds for the host's clock. `extras` are phrases for what no request leads
    to: somebody added it.
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
    live: DomainInfo | None = None


@dataclass(frozen=True, slots=True)
class DhcpHost:
    """A reservation: the guest with this MAC gets this address and this DNS name."""

    mac: str
    ip: IPv4Address
    name: str


@dataclass(frozen=True, slots=True)
class DnsName:
    """An address and the names that DNS has for it, the proper one first."""

    ip: IPv4Address | IPv6Address
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """A network as libvirt reports it; `owner` None means that it is not ours.

    The fields are those of the stored description; `live` has those that it runs with, which `virsh net-update --live`
    changes alone.
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
        """Those that it has, of either family."""
        return tuple(subnet for subnet in (self.subnet, self.subnet_v6) if subnet is not None)


@dataclass(frozen=True, slots=True)
class NetworkRequest:
    """A libvirt network to define, without any packet filter of libvirt's: what may pass is `PacketFilter`'s affair.

    `names` are answered by the network's DNS beside those of `hosts`. `nat` says that there is a way out, so that
    other names are asked for at the host's own DNS servers; without it they are answered with a refusal.
    `subnet_v6` and `gateway_v6` come together or not at all; guests set their IPv6 addresses themselves, without DHCP.
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
    """mdev: mediated device by UUID. vfio_vf: SR-IOV VF with managed='no'. pci: whole function, managed='yes'."""

    MDEV = "mdev"
    VFIO_VF = "vfio_vf"
    PCI = "pci"


@dataclass(frozen=True, slots=True)
class Hostdev:
    """A device handed to the guest; `address` is a UUID (mdev) or a PCI address such as 0000:41:00.4."""

    kind: HostdevKind
    address: str


@dataclass(frozen=True, slots=True)
class DomainRequest:
    """A virtual machine to define: direct kernel boot from a golden image with a qcow2 overlay as its disk.

    `credentials` are systemd credentials passed as SMBIOS OEM strings; they hold public material only, since
    domain XML can be read by others on the host.
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


class HypervisorView(Protocol):
    """What a hypervisor has. Lookups by name or UUID return None when there is no such object."""

    def domains(self) -> tuple[DomainInfo, ...]: ...
    def domain(self, name: str) -> DomainInfo | None: ...
    def domain_by_uuid(self, uuid: UUID) -> DomainInfo | None: ...
    def networks(self) -> tuple[NetworkInfo, ...]: ...
    def network(self, name: str) -> NetworkInfo | None: ...
    def network_by_uuid(self, uuid: UUID) -> NetworkInfo | None: ...


class Hypervisor(HypervisorView, Protocol):
    """A libvirt connection. Deletes are idempotent."""

    def define_domain(self, request: DomainRequest) -> None:
        """Define (not start). A domain of the same UUID is redefined.

        Raises:
            ConflictError: the name belongs to a domain with another UUID.
        """
        ...

    def rename_domain(self, name: str, new: str) -> None:
        """Give a domain that is off another name.

        Raises:
            HypervisorError: it runs, or has snapshots.
            ConflictError: another domain has the new name.
        """
        ...

    def start_domain(self, name: str) -> None:
        """Start; a running domain is left as it is, a paused one goes on."""
        ...

    def shutdown_domain(self, name: str, *, timeout: float) -> None:
        """Ask the guest to power off and wait; at the deadline power it off hard. A paused one goes on first."""
        ...

    def delete_domain(self, name: str) -> None:
        """Power off hard and undefine; an absent domain is fine."""
        ...

    def define_network(self, request: NetworkRequest) -> None:
        """Define and start; an existing network of ours with the same UUID is updated in place where libvirt
        can (DHCP hosts come and go without a restart), otherwise restarted."""
        ...

    def start_network(self, name: str) -> None: ...
    def delete_network(self, name: str) -> None: ...
    def guest_command_prefix(self) -> tuple[str, ...]:
        """Argv prefix that runs a command where the guests can be reached: empty, or entering the namespace."""
        ...

    def close(self) -> None: ...


# ---------------------------------------------------------------- disks
class DiskTool(Protocol):
    """qemu-img."""

    def create_overlay(self, path: Path, *, base: Path, size_gib: int) -> None:
        """A qcow2 overlay of `size_gib` (at least the base's size) on the qcow2 `base`; written to a temporary
        name, fsynced and renamed, so that a half-made overlay is never seen under `path`."""
        ...

    def resize(self, path: Path, *, size_gib: int) -> None:
        """Grow a qcow2 that no running domain uses; already that size is fine, shrinking is refused."""
        ...

    def size_gib(self, path: Path) -> int:
        """Virtual size, rounded down."""
        ...

    def overlay_base(self, path: Path) -> Path | None:
        """The backing file of a qcow2; None when the file is absent or is no overlay.

        Raises:
            DamagedDiskError: it was read, and is a qcow2 that nothing can use.
            HyperscalerError: it could not be looked at; that says nothing of the disk.
        """
        ...


# ---------------------------------------------------------------- guests
@dataclass(frozen=True, slots=True)
class GuestAddress:
    """How to reach a guest by ssh."""

    name: str
    ip: IPv4Address
    user: str


class GuestShell(Protocol):
    """ssh into the guests of one lab, host keys checked."""

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
        """Whether ssh answers and lets us in, within `timeout` seconds; refused or unreachable is False."""
        ...


# ---------------------------------------------------------------- sessions
class DaemonPresence(StrEnum):
    """The lab's own libvirtd: nothing of it, remains without a running daemon, or up."""

    ABSENT = "absent"
    DOWN = "down"
    UP = "up"


class HypervisorDaemon(Protocol):
    """A private libvirtd with its namespaces. All methods are idempotent."""

    def presence(self) -> DaemonPresence: ...

    def uri(self) -> str:
        """Its libvirt URI while it is up; touches nothing."""
        ...

    def start(self) -> str:
        """Bring it up (whatever half of it is there) and return its libvirt URI. The caller holds the lab's lock."""
        ...

    def stop(self) -> None:
        """End every process of it, guests included, and remove namespaces and directories."""
        ...


class HypervisorSession(Protocol):
    """The connection of one run, opened when first needed and shared by its threads."""

    @property
    def private(self) -> bool:
        """Whether the hypervisor is the lab's own, so that one that does not run has nothing left to take away."""
        ...

    def reset(self) -> None:
        """Forget the connection: the hypervisor was started or stopped."""
        ...

    def peek(self) -> Hypervisor | None:
        """The connection if the hypervisor runs; never starts anything."""
        ...

    def view(self) -> HypervisorView | None:
        """What the hypervisor has, if it runs; while a plan is made, as it was when the planning began."""
        ...

    def get(self) -> Hypervisor:
        """The connection.

        Raises:
            HypervisorError: the hypervisor does not run or does not answer.
        """
        ...
