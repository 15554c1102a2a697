"""Everything outside the program, as one value. `wiring.py` makes the real one, tests make a simulated one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from emulator.apply.gpu_ownership import GpuLedger
from emulator.apply.handlers.gpu_host import GpuHost
from emulator.apply.handlers.image import Images
from emulator.core.filter_ports import PacketFilter
from emulator.core.paths import Home, LabPaths
from emulator.core.ports import DiskTool, Hypervisor, HypervisorDaemon, ProcessRunner
from emulator.guests.ports import Guests
from emulator.host.acceleration import AccelerationDecision
from emulator.host.facts import HostFacts
from emulator.labfile.model import Acceleration, GpuDeviceSpec, KubernetesSpec

EMBEDDED = "embedded"
SYSTEM = "qemu:///system"


class SystemHypervisor(StrEnum):
    """What can be said of the host's own libvirt with a view to one lab.

    `empty`: it does not answer, and what it keeps on disk shows that it has nothing of the lab (or it is not
    installed). `silent`: it does not answer, and may have something.
    """

    ANSWERS = "answers"
    EMPTY = "empty"
    SILENT = "silent"


class GpuOpener(Protocol):
    """Opens the host's GPUs or simulated ones."""

    def __call__(self, backend: str, paths: LabPaths, devices: Sequence[GpuDeviceSpec] | None, *, dry: bool) -> GpuHost:
        """`devices` None takes simulated GPUs as they are; `dry` leaves no trace, for planning."""
        ...


class Units(Protocol):
    """What the host's init starts with the machine."""

    def read(self, name: str) -> str | None: ...

    def is_enabled(self, name: str) -> bool: ...

    def enable(self, name: str, text: str) -> None: ...

    def remove(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class World:
    """Ports and choosers.

    `host_locks` is the directory of the locks around what labs of all homes share; `gpu_ledger` says which of them
    has what of the host's own GPUs. `choose_hypervisor` maps the file's
    `hypervisor.uri` to `embedded` or a libvirt URI; `system_hypervisor` looks at the host's own libvirt on behalf of a
    lab. `images` opens the store for labs with this Kubernetes, which is an input of their image. What
    `connect` and `packet_filter` take last is the argv prefix that enters the network namespace of the guests.
    """

    home: Home
    host_locks: Path
    gpu_ledger: GpuLedger
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
    host_facts: Callable[[], HostFacts]
    gpus: GpuOpener
    units: Units
