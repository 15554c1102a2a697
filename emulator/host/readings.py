"""What a machine shows of itself as a host of labs, as frozen types. The checks are pure functions over them."""

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
        """Whether this machine is itself a virtual machine."""
        return "hypervisor" in self.flags


class DeviceAnswer(StrEnum):
    """What opening a device node for reading and writing gave."""

    USABLE = "usable"
    ABSENT = "absent"
    REFUSED = "refused"
    """Not permitted to this user."""
    BROKEN = "broken"
    """It is there, and does not open or does not answer (ENODEV, EIO, a wrong API version)."""


class HostProbe(Protocol):
    """What of a host is no file: programs that answer, devices that open, free space."""

    def device(self, path: str) -> DeviceAnswer: ...

    def says(self, program: str) -> str | None:
        """What a program prints of itself (its version, or the state asked for); None when it is not installed
        or this user may not ask it, empty when it is there and says nothing."""
        ...

    def disk_free_gib(self, directory: Path) -> float: ...

    def clock_synchronised(self) -> bool | None:
        """Whether the kernel counts its clock as synchronised; None where that is not to be known."""
        ...


@dataclass(frozen=True, slots=True)
class HostUser:
    """Who asks. `groups` are names; numbers without a name are left out."""

    uid: int
    name: str
    groups: frozenset[str]

    @property
    def is_root(self) -> bool:
        return self.uid == 0


@dataclass(frozen=True, slots=True)
class Kernel:
    """`parameters` are those of modules, by `module/parameter`. Names of modules have underscores: `loaded` are there,
    built in or not, `loadable` are those that modprobe finds for this kernel."""

    arguments: tuple[str, ...]
    loaded: frozenset[str]
    loadable: frozenset[str] = frozenset()
    parameters: Mapping[str, str] = field(default_factory=dict)
    blacklisted: Mapping[str, str] = field(default_factory=dict)
    """Module -> the file or kernel argument that keeps it from being loaded."""

    def argument(self, name: str) -> str | None:
        """The value of the last `name=value`, empty for a bare `name`; None when it is not there."""
        values = [word.partition("=")[2] for word in self.arguments if word.partition("=")[0] == name]
        return values[-1] if values else None


@dataclass(frozen=True, slots=True)
class Iommu:
    """`tables`: ACPI tables that announce one (`DMAR` Intel, `IVRS` AMD); None when the directory is not readable.
    `groups`: how many groups the kernel has made."""

    tables: tuple[str, ...] | None
    groups: int


@dataclass(frozen=True, slots=True)
class Cgroups:
    """`version` 0: none mounted. `controllers` in the names of version 1 (`blkio` for `io`)."""

    version: int
    controllers: frozenset[str]


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
        node: the device node through which a process holds it; empty where its driver has none or does not say.
        framebuffer: what the firmware's framebuffer on it is called in /proc/iomem or /proc/fb; empty without one.
    """

    pci: PciDevice
    name: str
    framework: VgpuFramework
    group: tuple[PciDevice, ...]
    node: str = ""
    framebuffer: str = ""


@dataclass(frozen=True, slots=True)
class Program:
    """An installed program; `version` is empty where it does not tell one."""

    version: str

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.version.split(".")) if self.version else ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Of this process and this kernel. None: unlimited or not shown."""

    open_files_soft: int | None
    open_files_hard: int | None
    inotify_instances: int | None


@dataclass(frozen=True, slots=True)
class ForwardChain:
    """A base chain of nftables at the hook `forward`."""

    family: str
    table: str
    name: str


@dataclass(frozen=True, slots=True)
class HostReadings:
    """Everything the checks ask of a host.

    Attributes:
        system: `ID` of os-release, such as `debian`; `system_name` is for people.
        packages: names of installed Debian packages, and of those that an installed one provides; None on a system
            without dpkg.
        wanted_packages: the product's own list of Debian packages.
        optional_packages: those of them without which labs run all the same.
        processes: names of running processes, cut at 15 characters as the kernel does.
        holders: processes that have a device node of an NVIDIA GPU open.
        forward_policy: policy of iptables' FORWARD chain; None when it was not to be seen or not asked for.
        forward_drops: chains of nftables that drop what they do not let through; None when they were not to be seen.
        ufw: it is enabled at boot.
        bridge_filter: whether frames that cross a bridge pass iptables, too (`br_netfilter`).
        system_libvirt: the host's own libvirt listens on its socket.
        clock_synchronised: the kernel says so, or systemd-timesyncd; None when neither tells.
        has_systemd: systemd runs.
        accounts: names of the users in `/etc/passwd`; `groups`: who is listed in each group of `/etc/group`.
        units: of the units that a preparation may start, those that are installed, and whether they are enabled.
        own_files: contents of the files that a preparation writes, where they are there.
        architecture: the kernel's, as `uname -m` names it; empty if nothing says it.
        processes_hidden: this user does not see the processes of others (`hidepid`), so that one that is not among
            `processes` may run all the same.
        signs: what says which system it is.
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

    @property
    def docker(self) -> bool:
        return "dockerd" in self.processes or "docker0" in self.facts.interfaces
