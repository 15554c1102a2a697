"""Everything outside the program, as one value. `wiring.py` makes the real one, tests make simulated ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from emulator.apply.gpu_ownership import GpuLedger
from emulator.apply.handlers.gpu.host import GpuHost
from emulator.apply.handlers.image import Images
from emulator.core.gateway.names import Door
from emulator.core.hypervisors import SystemHypervisor
from emulator.core.paths import Home, LabPaths
from emulator.core.ports import DiskTool, Hypervisor, HypervisorDaemon, ProcessRunner
from emulator.core.ports.guest_accounts import GuestAccounts
from emulator.core.ports.packet_filter import PacketFilter
from emulator.core.ports.services import ServiceSupervisor
from emulator.core.waiting.pace import Pace
from emulator.guests.ports import Guests
from emulator.host.acceleration import AccelerationDecision
from emulator.host.facts import HostFacts
from emulator.kubernetes.release.upgrade_files import UpgradeFiles
from emulator.labfile.model import Acceleration, ClusterSpec, GpuBackend, GpuDeviceSpec, KubernetesSpec


class GpuOpener(Protocol):
    """Opens the host's GPUs or simulated ones."""

    def __call__(self, backend: str, paths: LabPaths, devices: Sequence[GpuDeviceSpec] | None, *, dry: bool) -> GpuHost:
        """`devices` None takes simulated GPUs as they are; `dry` leaves no trace, for planning."""
        ...


class Units(Protocol):
    """Units that the host's init starts at boot."""

    def read(self, name: str) -> str | None: ...

    def is_enabled(self, name: str) -> bool: ...

    def write(self, name: str, text: str) -> None: ...

    def enable(self, name: str, text: str) -> None: ...

    def start(self, name: str) -> None: ...

    def stop(self, name: str) -> None: ...

    def remove(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Environment:
    """Ports and choosers.

    Attributes:
        home: where labs and images lie, as this command was started.
        host_locks: directory of the locks around everything that labs of all homes share.
        gpu_ledger: which lab owns what on the host's own GPUs.
        guest_accounts: which guest's QEMU runs as which account.
        images: opens the image store for labs with this Kubernetes, which is an input of their image.
        choose_hypervisor: maps the lab file's `hypervisor.uri` to `embedded` or a libvirt URI.
        system_hypervisor: looks at the host's own libvirt on behalf of a lab, by the lab's name.
        daemon: the private libvirtd in this directory and network namespace.
        supervisor: what keeps a lab's services running, by its directory.
        upgrade_files: makes what standing nodes get of the release that a lab wants; its last argument hears progress.
        pace: how patient to be with a lab on this host; measured at the first call, the same in all others.
        door: how users of labs find the host's gateway; None while there is none.
        connect, packet_filter: their last argument is the argv prefix that enters the guests' network namespace.
    """

    home: Home
    host_locks: Path
    gpu_ledger: GpuLedger
    guest_accounts: GuestAccounts
    runner: ProcessRunner
    disks: DiskTool
    images: Callable[[KubernetesSpec | None], Images]
    guests: Guests
    choose_hypervisor: Callable[[str], str]
    system_hypervisor: Callable[[str], SystemHypervisor]
    accelerate: Callable[[Acceleration], AccelerationDecision]
    daemon: Callable[[Path, str], HypervisorDaemon]
    connect: Callable[[str, tuple[str, ...]], Hypervisor]
    packet_filter: Callable[[tuple[str, ...]], PacketFilter]
    supervisor: Callable[[Path], ServiceSupervisor]
    host_facts: Callable[[], HostFacts]
    gpus: GpuOpener
    units: Units
    upgrade_files: Callable[[KubernetesSpec, Callable[[str, str], None]], UpgradeFiles]
    pace: Callable[[ClusterSpec], Pace] = field(default=lambda _spec: Pace())
    door: Callable[[], Door | None] = field(default=lambda: None)


def host_gpus(env: Environment) -> GpuHost:
    """The host's own GPUs, opened to be looked at only."""
    return env.gpus(GpuBackend.NVML.value, env.home.lab("none"), None, dry=True)
