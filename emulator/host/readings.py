"""Everything that the checks read of a host, as frozen types. The checks are pure functions over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from emulator.gpu.ports import DeviceHolder, PciDevice, VgpuFramework
from emulator.host.facts import HostFacts
from emulator.host.platform import SystemSigns


class CpuVendor(StrEnum):
    INTEL = "intel"
    AMD = "amd"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Processor:
    """The first processor of `/proc/cpuinfo`; `flags` as the kernel spells them."""

    vendor: CpuVendor
    model: str
    flags: frozenset[str]

    @property
    def virtualisation(self) -> str | None:
        """`vmx`, `svm` or None."""
        return next((flag for flag in ("vmx", "svm") if flag in self.flags), None)

    @property
    def is_guest(self) -> bool:
        """Whether the host is itself a virtual machine."""
        return "hypervisor" in self.flags


class DeviceAnswer(StrEnum):
    """The result of opening a device node for reading and writing."""

    USABLE = "usable"
    ABSENT = "absent"
    REFUSED = "refused"
    """This user may not open it."""
    BROKEN = "broken"
    """It exists, but does not open or does not answer (ENODEV, EIO, a wrong API version)."""


class HostProbe(Protocol):
    """The parts of a host that are not files to read: programs, devices, free space, the state of the clock."""

    def device(self, path: str) -> DeviceAnswer: ...

    def says(self, program: str) -> str | None:
        """A program's output: its version, or the state that it is asked for. None if the program is not installed or
        this user may not ask it; empty if it prints nothing."""
        ...

    def disk_free_gib(self, directory: Path) -> float: ...

    def clock_synchronised(self) -> bool | None:
        """Whether the kernel counts its clock as synchronised; None if that is unknown."""
        ...


@dataclass(frozen=True, slots=True)
class HostUser:
    """The user who runs the check. `groups` are names; numbers without a name are left out."""

    uid: int
    name: str
    groups: frozenset[str]

    @property
    def is_root(self) -> bool:
        return self.uid == 0


@dataclass(frozen=True, slots=True)
class Kernel:
    """The running kernel and its modules, whose names are spelled with underscores.

    Attributes:
        arguments: words of its command line.
        loaded: modules that are loaded or built in.
        loadable: modules that modprobe finds for this kernel.
        parameters: values of module parameters by `module/parameter`.
        blacklisted: module -> the file or kernel argument that keeps it from being loaded.
    """

    arguments: tuple[str, ...]
    loaded: frozenset[str]
    loadable: frozenset[str] = frozenset()
    parameters: Mapping[str, str] = field(default_factory=dict)
    blacklisted: Mapping[str, str] = field(default_factory=dict)

    def argument(self, name: str) -> str | None:
        """The value of the last `name=value`, empty for a bare `name`; None if the argument is not given."""
        values = [word.partition("=")[2] for word in self.arguments if word.partition("=")[0] == name]
        return values[-1] if values else None


@dataclass(frozen=True, slots=True)
class Iommu:
    """`tables`: ACPI tables that announce an IOMMU (`DMAR` Intel, `IVRS` AMD); None if their directory is not readable.
    `groups`: the number of IOMMU groups that the kernel has made."""

    tables: tuple[str, ...] | None
    groups: int


@dataclass(frozen=True, slots=True)
class Cgroups:
    """`version` is 0 if none is mounted; `controllers` have the names of version 1 (`blkio` for `io`)."""

    version: int
    controllers: frozenset[str]


@dataclass(frozen=True, slots=True)
class Confinement:
    """What can hold the host's QEMU processes.

    Attributes:
        apparmor, selinux: whether the kernel enforces it.
        profiles: whether libvirt's AppArmor profiles for guests are installed.
        drivers: what libvirt's qemu.conf names as `security_driver`; None if this user cannot read the file.
    """

    apparmor: bool = False
    selinux: bool = False
    profiles: bool = False
    drivers: tuple[str, ...] | None = ()


class DriverKind(StrEnum):
    DATA_CENTRE = "data_centre"
    VGPU_HOST = "vgpu_host"


@dataclass(frozen=True, slots=True)
class NvidiaDriver:
    """The loaded NVIDIA kernel driver."""

    version: str
    kind: DriverKind
    open_modules: bool


@dataclass(frozen=True, slots=True)
class PciGpu:
    """A physical NVIDIA GPU on the PCI bus.

    Attributes:
        name: the catalogue's, or the PCI id.
        group: members of its IOMMU group.
        node: the device node through which a process holds it; empty if its driver has none or does not say.
        framebuffer: the name in /proc/iomem or /proc/fb of the firmware's framebuffer on it; empty without one.
    """

    pci: PciDevice
    name: str
    framework: VgpuFramework
    group: tuple[PciDevice, ...]
    node: str = ""
    framebuffer: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """An installed program; `version` is empty if it prints none."""

    version: str

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split(".")) if self.version else ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of this process and this kernel; None means unlimited or not shown."""

    open_files_soft: int | None
    open_files_hard: int | None
    inotify_instances: int | None


@dataclass(frozen=True, slots=True)
class ForwardChain:
    """A base chain of nftables at the hook `forward`."""

    family: str
    table: str
    name: str


# Debian's apt depends on its keyring, so that there is none without it; others' apt has keys of its own.
_OF_APT = {"debian": frozenset({"debian-archive-keyring"})}


@dataclass(frozen=True, slots=True)
class HostReadings:
    """Everything the checks ask of a host.

    Attributes:
        system: `ID` of os-release, such as `debian`.
        system_name: the system's name for people.
        packages: names of installed Debian packages, and of those that an installed one provides; None on a system
            without dpkg.
        wanted_packages: the program's own list of Debian packages.
        optional_packages: the wanted packages that labs can do without.
        processes: names of running processes, cut to 15 characters by the kernel; services only as system accounts.
        holders: processes that have a device node of an NVIDIA GPU open.
        forward_policy: policy of iptables' FORWARD chain; None if this user cannot see it, or it was not asked for.
        forward_drops: chains of nftables at the hook `forward` with the policy to drop; None if this user cannot see
            them.
        ufw: whether ufw is enabled at boot.
        bridge_filter: whether frames that cross a bridge pass iptables, too (`br_netfilter`).
        system_libvirt: whether the host's own libvirt listens on its socket.
        clock_synchronised: whether the kernel or systemd-timesyncd reports it; None if neither does.
        has_systemd: whether systemd runs.
        accounts: names of the users in `/etc/passwd`.
        groups: members that `/etc/group` lists, by group.
        units: installed units that `host prepare` may start, and whether each is enabled.
        own_files: contents of the files that `host prepare` writes, as far as they exist.
        architecture: the kernel's architecture in the spelling of `uname -m`; empty if it is unknown.
        processes_hidden: whether others' processes are hidden from this user (`hidepid`): then a process may run that
            is not in `processes`.
        signs: facts that distinguish general-purpose systems from others.
        confinement: AppArmor, SELinux, and how the host's libvirt uses them.
        apt_suites: suites that apt's sources name.
    """

    user: HostUser
    system: str
    system_name: str
    processor: Processor
    kernel: Kernel
    devices: Mapping[str, DeviceAnswer]
    iommu: Iommu
    cgroups: Cgroups
    gpus: tuple[PciGpu, ...]
    driver: NvidiaDriver | None
    holders: tuple[DeviceHolder, ...]
    sriov_manage: bool
    programs: Mapping[str, Program]
    packages: frozenset[str] | None
    wanted_packages: tuple[str, ...]
    optional_packages: frozenset[str]
    processes: frozenset[str]
    facts: HostFacts
    limits: Limits
    forward_policy: str | None
    forward_drops: tuple[ForwardChain, ...] | None
    ufw: bool
    bridge_filter: bool
    system_libvirt: bool
    clock_synchronised: bool | None
    has_systemd: bool
    accounts: frozenset[str] = frozenset()
    groups: Mapping[str, frozenset[str]] = field(default_factory=dict)
    units: Mapping[str, bool] = field(default_factory=dict)
    own_files: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ""
    processes_hidden: bool = False
    signs: SystemSigns = field(default_factory=SystemSigns)
    confinement: Confinement = field(default_factory=Confinement)
    apt_suites: frozenset[str] = frozenset()

    @property
    def docker(self) -> bool:
        return "dockerd" in self.processes or "docker0" in self.facts.interfaces

    @property
    def missing_packages(self) -> tuple[str, ...]:
        """Wanted packages that are neither installed nor part of the system's apt; empty on a system without dpkg."""
        if self.packages is None:
            return ()
        here = self.packages | _OF_APT.get(self.system, frozenset())
        return tuple(name for name in self.wanted_packages if name not in here)
