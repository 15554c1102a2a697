"""Which adapters are used? The composition root: it chooses and connects, and does nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.adapters.system.process import HostProcess
from emulator.core.paths import Home, LabPaths
from emulator.core.ports import Hypervisor, HypervisorDaemon, ProcessRunner
from emulator.host.acceleration import AccelerationDecision
from emulator.labfile.model import Acceleration, GpuBackend, GpuDeviceSpec, KubernetesSpec

if TYPE_CHECKING:
    # What a verb does not use it does not load, so that the light ones answer at once.
    from emulator.apply.gpu_ownership import GpuLedger
    from emulator.apply.handlers.gpu_host import GpuHost
    from emulator.images.lab_images import LabImages
    from emulator.images.store.store import ImageStore
    from emulator.images.supply_chain.signing import ImageSignatures
    from emulator.images.supply_chain.vulnerabilities import VulnerabilityListing
    from emulator.kubernetes.release.image_input import Bundles
    from emulator.lab.environment import SystemHypervisor, World


def image_store() -> ImageStore:
    """The golden images of this host."""
    from emulator.images.store.store import ImageStore

    return ImageStore(Home.default().images, HostProcess())


def real_world() -> World:
    """This host."""
    from emulator.adapters.system.nft import NftPacketFilter
    from emulator.adapters.system.qemu_img import QemuImg
    from emulator.adapters.system.systemd_units import SystemdUnits
    from emulator.guests.over_ssh import RealGuests
    from emulator.host.facts import read_host_facts
    from emulator.lab.environment import World

    home = Home.default()
    runner = HostProcess()
    return World(
        home=home,
        host_locks=host_locks(home),
        gpu_ledger=gpu_ledger(home),
        runner=runner,
        disks=QemuImg(runner),
        images=lambda kubernetes: lab_images(home, runner, kubernetes),
        guests=RealGuests(runner),
        choose_hypervisor=choose_hypervisor,
        system_hypervisor=look_at_system,
        accelerate=accelerate,
        daemon=_daemon,
        connect=_connect,
        packet_filter=lambda prefix: NftPacketFilter(runner, prefix),
        host_facts=lambda: read_host_facts(home.root),
        gpus=_gpus,
        units=SystemdUnits(runner),
    )


def host_locks(home: Home) -> Path:
    """One place for all homes of root's. Others share no hypervisor and no GPU with it."""
    from emulator.apply.lock import HOST_LOCKS

    return HOST_LOCKS if os.geteuid() == 0 else home.host_locks


def gpu_ledger(home: Home) -> GpuLedger:
    """One for all homes of root's, like the locks, since they share the GPUs; beside the labs of the default home,
    because it must outlive a reboot."""
    from emulator.apply.gpu_ownership import GpuLedger

    layout, default = host_locks(home) / "gpu-layout.lock", Home.system()
    if os.geteuid() != 0:
        return GpuLedger(home.gpu_owners, layout)
    return GpuLedger(default.gpu_owners, layout, home="" if home.id == default.id else home.id)


def images_of_host() -> LabImages:
    """The store, with the default Kubernetes for images that take it in."""
    return lab_images(Home.default(), HostProcess(), None)


def lab_images(home: Home, runner: ProcessRunner, kubernetes: KubernetesSpec | None) -> LabImages:
    """The store; with `kubernetes` also what goes into the image of Kubernetes nodes."""
    from emulator.images.lab_images import LabImages
    from emulator.images.store.store import ImageStore
    from emulator.images.supply_chain.signing import ImageSignatures
    from emulator.kubernetes.release.image_input import KubernetesInput

    inputs = {"kubernetes": KubernetesInput(home, runner, kubernetes or KubernetesSpec())}
    return LabImages(ImageStore(home.images, runner), inputs, ImageSignatures(home.trusted_signers, runner))


def vulnerability_listing() -> VulnerabilityListing:
    """What Debian knows of the packages in images."""
    from emulator.images.supply_chain.vulnerabilities import VulnerabilityListing

    return VulnerabilityListing(HostProcess())


def image_signatures() -> ImageSignatures:
    """Signing and checking images on this host."""
    from emulator.images.supply_chain.signing import ImageSignatures

    return ImageSignatures(Home.default().trusted_signers, HostProcess())


def _daemon(directory: Path, namespace: str) -> HypervisorDaemon:
    from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor
    from emulator.adapters.embedded.qemu_capabilities import QemuCapabilities

    return EmbeddedHypervisor(directory, namespace, HostProcess(), QemuCapabilities(Home.default().qemu_capabilities))


def _gpus(backend: str, paths: LabPaths, devices: Sequence[GpuDeviceSpec] | None, *, dry: bool) -> GpuHost:
    from emulator.wiring.gpus import real_gpus, scratch_copy, simulated_gpus

    if backend != GpuBackend.SIMULATED:
        return real_gpus(HostProcess(), gpu_ledger(Home.default()))
    if not dry:
        return simulated_gpus(paths.gpu, devices)
    # Declaring GPUs writes their state.
    return simulated_gpus(scratch_copy(paths.gpu), devices)


def _connect(uri: str, prefix: tuple[str, ...]) -> Hypervisor:
    from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor

    return LibvirtHypervisor(uri, prefix)


def choose_hypervisor(requested: str) -> str:
    """`auto` is the host's own libvirt where it answers, else a private one."""
    from emulator.adapters.libvirt.hypervisor import choose_uri, probe_uri

    return choose_uri(requested, probe=probe_uri)


def look_at_system(lab: str) -> SystemHypervisor:
    """Whether the host's own libvirt answers, or may have something of the lab all the same."""
    from emulator.adapters.libvirt.config_files import may_have
    from emulator.adapters.libvirt.hypervisor import SYSTEM_URI, probe_uri
    from emulator.core.ids import host_name
    from emulator.lab.environment import SystemHypervisor

    if probe_uri(SYSTEM_URI):
        return SystemHypervisor.ANSWERS
    return SystemHypervisor.SILENT if may_have(host_name(lab, "")) else SystemHypervisor.EMPTY


def accelerate(requested: Acceleration) -> AccelerationDecision:
    """KVM only where processor and kernel agree."""
    from emulator.adapters.system.acceleration import read_acceleration_facts
    from emulator.host.acceleration import decide_acceleration

    return decide_acceleration(requested, read_acceleration_facts())


def bundles_of_host() -> Bundles:
    """Offline Kubernetes bundles on this host."""
    from emulator.kubernetes.release.image_input import Bundles

    return Bundles(Home.default(), HostProcess())
