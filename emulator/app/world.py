"""Everything outside the program, as one value. `wiring.py` makes the real one, tests make a simulated one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from emulator.apply.handler import StopFlag
from emulator.apply.handlers.gpu_carve import GpuHost
from emulator.apply.handlers.image import Images
from emulator.host.facts import HostFacts
from emulator.inventory.model import NodeGpu
from emulator.paths import Home, LabPaths
from emulator.ports import DiskTool, GuestShell, Hypervisor, HypervisorDaemon, ProcessRunner
from emulator.progress import Reporter
from emulator.spec.model import Acceleration, ClusterSpec, GpuDeviceSpec, KubernetesSpec

EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class AccelerationChoice:
    """Whether guests run under KVM, and the one warning to print when they do not."""

    accelerated: bool
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """How to get into a lab's guests (the prefix enters their network namespace), and what GPUs they have."""

    paths: LabPaths
    user: str
    prefix: tuple[str, ...]
    gpus: Mapping[str, tuple[NodeGpu, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigureOutcome:
    """`changed` counts changed tasks per node."""

    changed: Mapping[str, int]
    seconds: float


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """One thing that was verified."""

    name: str
    ok: bool
    detail: str
    seconds: float


class Guests(Protocol):
    """What is done with running guests beyond a shell: host keys, playbooks, probes."""

    def parse_host_keys(self, console: str) -> Sequence[str]: ...

    def write_access(self, spec: ClusterSpec, access: Access, keys: Mapping[str, Sequence[str]] | None) -> None:
        """Write the lab's ssh_config and, when `keys` are given, its known_hosts."""
        ...

    def shell(self, access: Access) -> GuestShell: ...

    def configure(self, spec: ClusterSpec, access: Access, reporter: Reporter, stop: StopFlag) -> ConfigureOutcome: ...

    def inventory(self, spec: ClusterSpec, access: Access, form: str) -> str:
        """The Ansible inventory as `ini`, `yaml` or `json`."""
        ...

    def ssh_argv(self, access: Access, node: str, command: Sequence[str]) -> list[str]:
        """The command that opens a shell on a node, for a person."""
        ...

    def cluster_state(self, spec: ClusterSpec, access: Access) -> Mapping[str, str]:
        """One line about the nodes of each cluster as its scheduler sees them, for `status`: `slurm`, `kubernetes`."""
        ...

    def kubeconfig(self, spec: ClusterSpec, access: Access, *, student: bool) -> str:
        """A kubeconfig of the lab's Kubernetes cluster: the admin's, or the restricted student's."""
        ...

    def verify(self, spec: ClusterSpec, access: Access, reporter: Reporter) -> tuple[CheckOutcome, ...]: ...


class GpuOpener(Protocol):
    """Opens the host's boards or simulated ones."""

    def __call__(self, backend: str, paths: LabPaths, devices: Sequence[GpuDeviceSpec] | None, *, dry: bool) -> GpuHost:
        """`devices` None takes simulated boards as they are; `dry` leaves no trace, for planning."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """Ports and choosers. `choose_hypervisor` maps the file's `hypervisor.uri` to `embedded` or a libvirt URI;
    `images` opens the store for labs with this Kubernetes, which is an input of their image."""

    home: Home
    runner: ProcessRunner
    disks: DiskTool
    images: Callable[[KubernetesSpec | None], Images]
    guests: Guests
    choose_hypervisor: Callable[[str], str]
    accelerate: Callable[[Acceleration], AccelerationChoice]
    daemon: Callable[[Path, str], HypervisorDaemon]
    connect: Callable[[str, tuple[str, ...]], Hypervisor]
    host_facts: Callable[[], HostFacts]
    gpus: GpuOpener
