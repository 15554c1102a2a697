"""A lab on this host: its paths, its hypervisor, its handlers. Assembles, decides nothing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from emulator.apply.executor import HandlerTable
from emulator.apply.handler import Handle
from emulator.apply.handlers.domain import DomainHandler, passed_devices
from emulator.apply.handlers.firewall import FirewallHandler
from emulator.apply.handlers.gpu.gpu_instance import GpuInstanceHandler
from emulator.apply.handlers.gpu.host import GpuHost, hostdevs_of
from emulator.apply.handlers.gpu.mig_mode import MigModeHandler
from emulator.apply.handlers.gpu.passthrough import WholeGpuHandler
from emulator.apply.handlers.gpu.vgpu import VgpuHandler
from emulator.apply.handlers.gpu.virtual_functions import VirtualFunctionsHandler
from emulator.apply.handlers.hypervisor import HypervisorHandler
from emulator.apply.handlers.image import GoldenImageHandler, Images
from emulator.apply.handlers.network import NetworkHandler
from emulator.apply.handlers.secrets import SecretHandler, SshKeyPairHandler, public_key
from emulator.apply.handlers.volume import VolumeHandler
from emulator.apply.ownership import LabIdentity
from emulator.core.paths import Home, LabPaths
from emulator.core.ports import Hostdev
from emulator.guests.inventory.model import NodeGpu
from emulator.guests.ports import Access
from emulator.lab.environment import EMBEDDED, World
from emulator.lab.hypervisor_session import LazySession
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


@dataclass(frozen=True, slots=True)
class Backends:
    """What a lab runs on: `embedded` or a libvirt URI, and `nvml`, `simulated` or nothing for its GPUs.

    `kubernetes` is what the image of Kubernetes nodes is made with. `devices` declares simulated GPUs, None takes
    them as they are; `dry` promises that nothing is written.
    """

    hypervisor: str
    gpu: str = ""
    devices: tuple[GpuDeviceSpec, ...] | None = None
    dry: bool = False
    kubernetes: KubernetesSpec | None = None
    timeouts: TimeoutSpec = field(default_factory=TimeoutSpec)


@dataclass(frozen=True, slots=True)
class Lab:
    """`namespace` is set for an embedded hypervisor; `images` knows which images were looked at; `gpus` opens the
    GPUs, None for a lab without; `passed` tells what guests of the lab have of the host's devices.
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
    gpus: Callable[[], GpuHost] | None = None

    def access(self, user: str, gpus: Mapping[str, tuple[NodeGpu, ...]] | None = None) -> Access:
        return Access(self.paths, user, guest_prefix(self.namespace), gpus or {})


def guest_prefix(namespace: str | None) -> tuple[str, ...]:
    """Argv prefix for commands that must reach the guests."""
    return ("ip", "netns", "exec", namespace) if namespace else ()


def namespace_name(home: Home, lab: str) -> str:
    """The lab's network namespace. Labs of another home directory have other namespaces."""
    if home.root == Home.system().root:
        return f"hs-{lab}"
    return f"hs-{lab}-{hashlib.sha256(str(home.root).encode()).hexdigest()[:6]}"


def identity_of(home: Home, lab: str) -> LabIdentity:
    """By what the lab knows its own things. Those that an older version marked, without the home, count as those of
    the home that has the lab, or of root's own, where the lab's directory may have been lost."""
    paths = home.lab(lab)
    return LabIdentity(lab, home.id, paths.disks, inherits=paths.root.is_dir() or home.root == Home.system().root)


def open_lab(
    world: World, name: str, backends: Backends, *, images: Images | None = None, elsewhere: Sequence[Lab] = ()
) -> Lab:
    """Assemble the lab of this name; touches nothing yet.

    `images` are those of the lab as it was opened for the plan that is now applied: disks are made from what the plan
    looked at. `elsewhere` is the lab on other hypervisors that may have guests of it.
    """
    hypervisor = backends.hypervisor
    paths = world.home.lab(name)
    identity = identity_of(world.home, name)
    namespace = namespace_name(world.home, name) if hypervisor == EMBEDDED else None
    if namespace is not None:
        daemon = world.daemon(paths.hypervisor, namespace)
        # Never its start(): those who only look hold no lock, and what they see up may be on its way out.
        session = LazySession(lambda: world.connect(daemon.uri(), guest_prefix(namespace)), daemon)
    else:
        session = LazySession(lambda: world.connect(hypervisor, ()), None)

    def expected(lab: str) -> Hypervisor:
        wanted = namespace_name(world.home, lab)
        return Hypervisor(name="embedded", directory=str(world.home.lab(lab).hypervisor), namespace=wanted)

    # Without a record nobody may know the hypervisor; then only the GPUs are asked.
    sessions = (*((session,) if hypervisor else ()), *(lab.session for lab in elsewhere))

    def passed() -> tuple[Hostdev, ...]:
        return passed_devices(sessions, identity)

    gpus = _gpu_opener(world, paths, backends)
    images = images or world.images(backends.kubernetes)
    handlers: dict[str, Any] = {
        SshKeyPair.kind: SshKeyPairHandler(world.runner, paths.root),
        Secret.kind: SecretHandler(paths.root),
        GoldenImage.kind: GoldenImageHandler(images),
        Firewall.kind: FirewallHandler(world.packet_filter(guest_prefix(namespace)), session, identity),
        Network.kind: NetworkHandler(
            session, identity, world.host_locks / "networks.lock", wait_seconds=backends.timeouts.lock
        ),
        Volume.kind: VolumeHandler(
            world.disks, images, session, name, root=paths.root, shutdown_seconds=backends.timeouts.shutdown
        ),
        Domain.kind: DomainHandler(
            session,
            identity,
            public_key(paths.ssh_key),
            _hostdevs(gpus),
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
        handlers = {Hypervisor.kind: HypervisorHandler(world.daemon, session, expected), **handlers}
    return Lab(name, identity, paths, backends, namespace, session, handlers, images, passed, gpus)


def _gpu_opener(world: World, paths: LabPaths, backends: Backends) -> Callable[[], GpuHost] | None:
    if not backends.gpu:
        return None
    lock = threading.Lock()

    @cache
    def opened() -> GpuHost:
        return world.gpus(backends.gpu, paths, backends.devices, dry=backends.dry)

    def once() -> GpuHost:
        with lock:  # `cache` alone lets two threads open the GPUs twice
            return opened()

    return once


def _hostdevs(gpus: Callable[[], GpuHost] | None) -> Callable[[Handle], tuple[Hostdev, ...]]:
    return lambda handle: hostdevs_of(gpus, handle) if gpus is not None else ()
