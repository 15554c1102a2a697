"""A lab on this host: its paths, its hypervisor, its handlers. Assembles, decides nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from emulator.app.session import LazySession
from emulator.app.world import EMBEDDED, Access, World
from emulator.apply.executor import HandlerTable
from emulator.apply.handler import Handle
from emulator.apply.handlers.domain import DomainHandler
from emulator.apply.handlers.files import SecretHandler, SshKeyPairHandler, public_key
from emulator.apply.handlers.hypervisor import HypervisorHandler
from emulator.apply.handlers.image import GoldenImageHandler
from emulator.apply.handlers.network import NetworkHandler
from emulator.apply.handlers.volume import VolumeHandler
from emulator.paths import Home, LabPaths
from emulator.plan.resources import (
    Domain,
    GoldenImage,
    Hypervisor,
    Network,
    Secret,
    SshKeyPair,
    Volume,
)
from emulator.ports import Hostdev


@dataclass(frozen=True, slots=True)
class Lab:
    """`hypervisor` is `embedded` or a libvirt URI; `namespace` is set for an embedded one."""

    name: str
    paths: LabPaths
    hypervisor: str
    namespace: str | None
    session: LazySession
    handlers: HandlerTable

    def access(self, user: str) -> Access:
        return Access(self.paths, user, guest_prefix(self.namespace))


def guest_prefix(namespace: str | None) -> tuple[str, ...]:
    """Argv prefix for commands that must reach the guests."""
    return ("ip", "netns", "exec", namespace) if namespace else ()


def namespace_name(home: Home, lab: str) -> str:
    """The lab's network namespace. Labs of another home directory have other namespaces."""
    if home.root == Home.system().root:
        return f"hs-{lab}"
    return f"hs-{lab}-{hashlib.sha256(str(home.root).encode()).hexdigest()[:6]}"


def open_lab(world: World, name: str, hypervisor: str) -> Lab:
    """Assemble the lab of this name; touches nothing yet."""
    paths = world.home.lab(name)
    namespace = namespace_name(world.home, name) if hypervisor == EMBEDDED else None
    if namespace is not None:
        daemon = world.daemon(paths.hypervisor, namespace)
        # start() of a daemon that is up only returns its URI.
        session = LazySession(lambda: world.connect(daemon.start(), guest_prefix(namespace)), daemon)
    else:
        session = LazySession(lambda: world.connect(hypervisor, ()), None)

    def expected(lab: str) -> Hypervisor:
        wanted = namespace_name(world.home, lab)
        return Hypervisor(name="embedded", directory=str(world.home.lab(lab).hypervisor), namespace=wanted)

    handlers: Mapping[str, Any] = {
        SshKeyPair.kind: SshKeyPairHandler(world.runner),
        Secret.kind: SecretHandler(),
        GoldenImage.kind: GoldenImageHandler(world.images),
        Network.kind: NetworkHandler(session, name),
        Volume.kind: VolumeHandler(world.disks, world.images, session, name),
        Domain.kind: DomainHandler(session, name, public_key(paths.ssh_key), _no_hostdevs),
    }
    if namespace is not None:
        handlers = {Hypervisor.kind: HypervisorHandler(world.daemon, session, expected), **handlers}
    return Lab(name, paths, hypervisor, namespace, session, handlers)


def _no_hostdevs(handle: Handle) -> tuple[Hostdev, ...]:
    del handle
    return ()
