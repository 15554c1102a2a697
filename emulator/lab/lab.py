"""A lab on this host: its paths, its hypervisor, its handlers. Assembles, decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from emulator.apply.executor import HandlerTable
from emulator.apply.handler import Handle
from emulator.apply.handlers.domain import DomainHandler, passed_devices
from emulator.apply.handlers.firewall import FirewallHandler
from emulator.apply.handlers.gpu.gpu_instance import GpuInstanceHandler
from emulator.apply.handlers.gpu.host import hostdevs_of
from emulator.apply.handlers.gpu.mig_mode import MigModeHandler
from emulator.apply.handlers.gpu.passthrough import WholeGpuHandler
from emulator.apply.handlers.gpu.vgpu import VgpuHandler
from emulator.apply.handlers.gpu.virtual_functions import VirtualFunctionsHandler
from emulator.apply.handlers.hypervisor import HypervisorHandler
from emulator.apply.handlers.image import GoldenImageHandler, Images
from emulator.apply.handlers.network import NetworkHandler
from emulator.apply.handlers.secrets import SecretHandler, SshKeyPairHandler, public_key
from emulator.apply.handlers.service import ServiceHandler
from emulator.apply.handlers.volume import VolumeHandler
from emulator.apply.ownership import LabIdentity
from emulator.core.debian.releases import SlurmFeature
from emulator.core.hypervisors import EMBEDDED
from emulator.core.paths import LabPaths
from emulator.core.ports import Hostdev
from emulator.core.waiting.pace import Pace
from emulator.guests.inventory.model import NodeGpu
from emulator.guests.ports import Access
from emulator.lab.environment import Environment
from emulator.lab.gpu_session import GpuSession
from emulator.lab.hypervisor_session import LazySession
from emulator.lab.names import identity_of, namespace_name
from emulator.lab.open_journal import LabRecord
from emulator.labfile.model import GpuDeviceSpec, KubernetesSpec, TimeoutSpec
from emulator.plan.gpu_resources import GpuInstance, MigMode, Vgpu, VirtualFunctions, WholeGpu
from emulator.plan.resources import (
    Domain,
    Firewall,
    GoldenImage,
    Hypervisor,
    Network,
    Secret,
    SshKeyPair,
    Volume,
)
from emulator.plan.service_resources import Service


@dataclass(frozen=True, slots=True)
class Backends:
    """What a lab runs on.

    Attributes:
        hypervisor: `embedded` or a libvirt URI.
        gpu: `nvml`, `simulated`, or empty for a lab without GPUs.
        devices: simulated GPUs to declare; None takes them as they are.
        dry: nothing may be written, until `Lab.allow_changes`.
        kubernetes: the Kubernetes that goes into the image of Kubernetes nodes.
        timeouts: of the lab file.
    """

    hypervisor: str
    gpu: str = ""
    devices: tuple[GpuDeviceSpec, ...] | None = None
    dry: bool = False
    kubernetes: KubernetesSpec | None = None
    timeouts: TimeoutSpec = field(default_factory=TimeoutSpec)


@dataclass(frozen=True, slots=True)
class Lab:
    """One lab, opened.

    Attributes:
        namespace: network namespace of an embedded hypervisor; None on any other.
        images: the image store; remembers which images were looked at, so that disks are made from those.
        passed: the host's devices that guests of the lab have.
        gpus: opens the GPUs; None for a lab without.
    """

    name: str
    identity: LabIdentity
    paths: LabPaths
    backends: Backends
    namespace: str | None
    session: LazySession
    handlers: HandlerTable
    images: Images
    passed: Callable[[], tuple[Hostdev, ...]]
    gpus: GpuSession | None = None

    def access(
        self,
        user: str,
        gpus: Mapping[str, tuple[NodeGpu, ...]] | None = None,
        pace: Pace | None = None,
        slurm: frozenset[SlurmFeature] | None = None,
    ) -> Access:
        return Access(self.paths, user, guest_prefix(self.namespace), gpus or {}, pace or Pace(), slurm)

    def allow_changes(self) -> None:
        """Let a lab that was opened dry be changed from here on.

        The connection to the hypervisor is opened anew as well: a person may have looked at the plan for hours.
        """
        self.session.reset()
        if self.gpus is not None:
            self.gpus.allow_changes()


def guest_prefix(namespace: str | None) -> tuple[str, ...]:
    """Argv prefix for commands that must reach the guests."""
    return ("ip", "netns", "exec", namespace) if namespace else ()


def open_lab(env: Environment, record: LabRecord, backends: Backends, *, elsewhere: Sequence[Lab] = ()) -> Lab:
    """Assemble the lab of this record; touches nothing yet.

    `elsewhere` is the lab on other hypervisors that may have guests of it.
    """
    hypervisor, home, name = backends.hypervisor, record.home, record.name
    paths = record.paths
    identity = identity_of(home, name)
    namespace = namespace_name(home, name) if hypervisor == EMBEDDED else None
    if namespace is not None:
        daemon = env.daemon(paths.hypervisor, namespace)
        # Never its start(): commands that only look hold no lock, and a daemon that they see up may be on its way out.
        session = LazySession(lambda: env.connect(daemon.uri(), guest_prefix(namespace)), daemon)
    else:
        session = LazySession(lambda: env.connect(hypervisor, ()), None)

    def expected(lab: str) -> Hypervisor:
        wanted = namespace_name(home, lab)
        return Hypervisor(name="embedded", directory=str(home.lab(lab).hypervisor), namespace=wanted)

    # Without a record the hypervisor may be unknown; then only the GPUs are asked.
    sessions = (*((session,) if hypervisor else ()), *(lab.session for lab in elsewhere))

    def passed() -> tuple[Hostdev, ...]:
        return passed_devices(sessions, identity)

    gpus = _gpu_session(env, paths, backends)
    images = env.images(backends.kubernetes)
    handlers: dict[str, Any] = {
        SshKeyPair.kind: SshKeyPairHandler(env.runner, paths.root),
        Secret.kind: SecretHandler(paths.root),
        Service.kind: ServiceHandler(env.supervisor(paths.supervisor), paths.supervisor),
        GoldenImage.kind: GoldenImageHandler(images),
        Firewall.kind: FirewallHandler(env.packet_filter(guest_prefix(namespace)), session, identity),
        Network.kind: NetworkHandler(
            session, identity, env.host_locks / "networks.lock", wait_seconds=backends.timeouts.lock
        ),
        Volume.kind: VolumeHandler(
            env.disks, images, session, name, root=paths.root, shutdown_seconds=backends.timeouts.shutdown
        ),
        Domain.kind: DomainHandler(
            session,
            identity,
            public_key(paths.ssh_key),
            _hostdevs(gpus),
            lambda node: env.guest_accounts.of_guest(name, node),
            root=paths.root,
            shutdown_seconds=backends.timeouts.shutdown,
        ),
    }
    if gpus is not None:
        handlers |= {
            MigMode.kind: MigModeHandler(gpus),
            VirtualFunctions.kind: VirtualFunctionsHandler(gpus, name),
            GpuInstance.kind: GpuInstanceHandler(gpus, name),
            Vgpu.kind: VgpuHandler(gpus, name),
            WholeGpu.kind: WholeGpuHandler(gpus, name, passed),
        }
    if namespace is not None:
        handlers = {Hypervisor.kind: HypervisorHandler(env.daemon, session, expected), **handlers}
    return Lab(name, identity, paths, backends, namespace, session, handlers, images, passed, gpus)


def _gpu_session(env: Environment, paths: LabPaths, backends: Backends) -> GpuSession | None:
    if not backends.gpu:
        return None
    return GpuSession(lambda dry: env.gpus(backends.gpu, paths, backends.devices, dry=dry), dry=backends.dry)


def _hostdevs(gpus: GpuSession | None) -> Callable[[Handle], tuple[Hostdev, ...]]:
    return lambda handle: hostdevs_of(gpus, handle) if gpus is not None else ()
