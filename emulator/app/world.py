"""Everything outside the program, as one value. `wiring.py` makes the real one, tests make a simulated one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from emulator.access.model import LabUser
from emulator.apply.handler import StopFlag
from emulator.apply.handlers.gpu_carve import GpuHost
from emulator.apply.handlers.image import Images
from emulator.apply.ledger import GpuLedger
from emulator.filter_ports import PacketFilter
from emulator.host.facts import HostFacts
from emulator.inventory.model import NodeGpu
from emulator.paths import Home, LabPaths
from emulator.ports import DiskTool, GuestShell, Hypervisor, HypervisorDaemon, ProcessRunner
from emulator.progress import Reporter
from emulator.rotation.model import RotatedSecret
from emulator.spec.model import Acceleration, ClusterKind, ClusterSpec, GpuDeviceSpec, KubernetesSpec

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
class CertificateOrder:
    """A certificate for `user`, good for `seconds` from now. `public_key`: theirs; empty for one that is made, or was
    made before, in `directory`. `forwarding`: whether ports and agents may be forwarded."""

    user: str
    serial: int
    seconds: int
    directory: Path
    public_key: str = ""
    forwarding: bool = False
    nodes: tuple[str, ...] = ()


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

    def configure(
        self,
        spec: ClusterSpec,
        kind: ClusterKind,
        access: Access,
        reporter: Reporter,
        stop: StopFlag,
        tags: tuple[str, ...] = (),
    ) -> ConfigureOutcome:
        """Run the playbook of one cluster, or only its tasks with one of `tags`."""
        ...

    def end_work(self, paths: LabPaths) -> None:
        """End what `configure` of a killed command left at work. To be called under the lab's lock."""
        ...

    def user_key(self, spec: ClusterSpec, access: Access, order: CertificateOrder, *, revoked: Collection[str]) -> str:
        """Have the key that is to be certified lie in the order's directory; that key as `TYPE BASE64`. Unless it is
        the user's own, a pair is made there; one that is there stays, unless its key is among the `revoked`.
        """
        ...

    def issue(self, spec: ClusterSpec, access: Access, order: CertificateOrder) -> None:
        """Certify the key that `user_key` has laid there, and put the certificate and a configuration beside it."""
        ...

    def refusing(self, spec: ClusterSpec, access: Access, key: Path) -> tuple[str, ...]:
        """Names of the nodes that do not let the tool in with the private key at `key`."""
        ...

    def prove(
        self, spec: ClusterSpec, secret: RotatedSecret, access: Access, reporter: Reporter
    ) -> tuple[CheckOutcome, ...]:
        """Try a secret that was rotated: log in, run a job, check certificates."""
        ...

    def hand_kubeconfig(
        self, spec: ClusterSpec, access: Access, user: LabUser, *, seconds: int, directory: Path
    ) -> None:
        """Put a kubeconfig of a user whom the cluster knows into the directory, good for `seconds` from now.

        Raises:
            VerifyError: the control plane gives no token.
            CommandError: it cannot be asked.
        """
        ...

    def inventory(self, spec: ClusterSpec, access: Access, form: str) -> str:
        """The Ansible inventory as `ini`, `yaml` or `json`."""
        ...

    def ssh_argv(self, access: Access, node: str, command: Sequence[str]) -> list[str]:
        """The command that opens a shell on a node, for a person."""
        ...

    def cluster_state(self, spec: ClusterSpec, access: Access, kinds: Sequence[ClusterKind]) -> Mapping[str, str]:
        """One line about the nodes of each of these clusters as its scheduler sees them, for `status`: `slurm`,
        `kubernetes`. They are asked at once."""
        ...

    def kubeconfig(self, spec: ClusterSpec, access: Access, *, student: bool) -> str:
        """A kubeconfig of the lab's Kubernetes cluster: the admin's, or the restricted student's."""
        ...

    def verify(
        self, spec: ClusterSpec, kind: ClusterKind, access: Access, reporter: Reporter
    ) -> tuple[CheckOutcome, ...]:
        """Probe one cluster."""
        ...


class GpuOpener(Protocol):
    """Opens the host's boards or simulated ones."""

    def __call__(self, backend: str, paths: LabPaths, devices: Sequence[GpuDeviceSpec] | None, *, dry: bool) -> GpuHost:
        """`devices` None takes simulated boards as they are; `dry` leaves no trace, for planning."""
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

    `host_locks` is the directory of the locks around what labs of all homes share; `board_ledger` says which of them
    has what of the host's own boards. `choose_hypervisor` maps the file's
    `hypervisor.uri` to `embedded` or a libvirt URI; `system_hypervisor` looks at the host's own libvirt on behalf of a
    lab. `images` opens the store for labs with this Kubernetes, which is an input of their image. What
    `connect` and `packet_filter` take last is the argv prefix that enters the network namespace of the guests.
    """

    home: Home
    host_locks: Path
    board_ledger: GpuLedger
    runner: ProcessRunner
    disks: DiskTool
    images: Callable[[KubernetesSpec | None], Images]
    guests: Guests
    choose_hypervisor: Callable[[str], str]
    system_hypervisor: Callable[[str], SystemHypervisor]
    accelerate: Callable[[Acceleration], AccelerationChoice]
    daemon: Callable[[Path, str], HypervisorDaemon]
    connect: Callable[[str, tuple[str, ...]], Hypervisor]
    packet_filter: Callable[[tuple[str, ...]], PacketFilter]
    host_facts: Callable[[], HostFacts]
    gpus: GpuOpener
    units: Units
