"""Which adapters are used? The composition root: it chooses and connects, and does nothing else.

Imports are inside the functions, so that a verb loads only what it uses and light ones answer at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emulator.adapters.system.process import HostProcess
from emulator.core.paths import Home, LabPaths
from emulator.core.ports import Hypervisor, HypervisorDaemon, ProcessRunner
from emulator.labfile.model import Acceleration, ClusterSpec, GpuBackend, GpuDeviceSpec, KubernetesSpec

if TYPE_CHECKING:
    from emulator.apply.gpu_ownership import GpuLedger
    from emulator.apply.guest_accounts.ledger import AccountLedger, NoAccounts
    from emulator.apply.handlers.gpu.host import GpuHost
    from emulator.core.gateway.names import Door, Endpoint, Target
    from emulator.core.ports.notifications import Notifier
    from emulator.core.ports.services import ServiceSupervisor
    from emulator.core.waiting.pace import Pace
    from emulator.gpu.ports import FileAccess, VgpuFramework, VgpuHost
    from emulator.host.acceleration import AccelerationDecision
    from emulator.host.readings import HostProbe, HostReadings
    from emulator.images.lab_images import LabImages
    from emulator.images.store.store import ImageStore
    from emulator.images.supply_chain.signing import ImageSignatures
    from emulator.images.supply_chain.vulnerabilities import VulnerabilityListing
    from emulator.kubernetes.release.image_input import Bundles
    from emulator.kubernetes.release.pinning.pins import Pin
    from emulator.kubernetes.release.upgrade_files import UpgradeFiles
    from emulator.lab.environment import Environment
    from emulator.lab.own_guests import OwnGuests
    from emulator.operations.host.gateway import GatewayHost
    from emulator.operations.host.record import PreparedHost
    from emulator.operations.nightly.builds import Builds


# ---------------------------------------------------------------- labs
def real_environment() -> Environment:
    """This host, for commands that work on labs."""
    from emulator.adapters.libvirt.hypervisor import choose_uri, look_at_system, probe_uri
    from emulator.adapters.system.nft import NftPacketFilter
    from emulator.adapters.system.qemu_img import QemuImg
    from emulator.adapters.system.systemd_units import SystemdUnits
    from emulator.apply.gpu_ownership import host_ledger
    from emulator.apply.lock import host_locks
    from emulator.guests.over_ssh import RealGuests
    from emulator.host.facts import read_host_facts
    from emulator.lab.environment import Environment

    home, runner = Home.default(), HostProcess()
    return Environment(
        home=home,
        host_locks=host_locks(home),
        gpu_ledger=host_ledger(home),
        guest_accounts=_accounts(),
        runner=runner,
        disks=QemuImg(runner),
        images=lambda kubernetes: lab_images(home, runner, kubernetes),
        guests=RealGuests(runner),
        choose_hypervisor=lambda requested: choose_uri(requested, probe=probe_uri),
        system_hypervisor=look_at_system,
        accelerate=_accelerate,
        daemon=_daemon,
        connect=_connect,
        supervisor=supervisor_in,
        packet_filter=lambda prefix: NftPacketFilter(runner, prefix),
        host_facts=lambda: read_host_facts(home.root),
        gpus=_gpus,
        units=SystemdUnits(runner),
        upgrade_files=_upgrade_files,
        pace=_pace,
        door=door_of_host,
    )


def _pace(spec: ClusterSpec) -> Pace:
    # What the file demands and the host lacks is refused elsewhere, in words.
    emulated = spec.hypervisor.acceleration is Acceleration.TCG
    return _measured_pace(Acceleration.TCG if emulated else Acceleration.AUTO, len(spec.nodes))


@functools.cache
def _measured_pace(acceleration: Acceleration, guests: int) -> Pace:
    from emulator.adapters.system.host_pace import read_pace
    from emulator.core.waiting.pace import pace_of

    return pace_of(read_pace(), accelerated=_accelerate(acceleration).accelerated, guests=guests)


def _accounts() -> AccountLedger | NoAccounts:
    from emulator.adapters.system.account_numbers import HostAccountNumbers
    from emulator.apply.guest_accounts.ledger import host_accounts

    home = Home.default()
    homes = dict.fromkeys((home, Home.system()))
    return host_accounts(home, HostAccountNumbers(lambda: [lab for each in homes for lab in each.labs.glob("*")]))


def _daemon(directory: Path, namespace: str) -> HypervisorDaemon:
    from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor
    from emulator.adapters.embedded.qemu_capabilities import QemuCapabilities
    from emulator.adapters.libvirt.guest_account import guest_account

    home, lab = Home.default(), LabPaths(directory.parent)
    return EmbeddedHypervisor(
        directory,
        namespace,
        HostProcess(),
        QemuCapabilities(home.qemu_capabilities),
        account=lambda: _accounts().of_lab(directory.parent.name) or guest_account(),
        writable=(lab.disks, lab.console),
        readable=(home.images,),
    )


def _connect(uri: str, prefix: tuple[str, ...]) -> Hypervisor:
    from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor

    return LibvirtHypervisor(uri, prefix)


# ---------------------------------------------------------------- services
def supervisor_in(directory: Path) -> ServiceSupervisor:
    """The supervisor of a lab, by its directory."""
    from emulator.adapters.services.own_programs import own_command
    from emulator.adapters.services.supervisor import ProcessSupervisor

    return ProcessSupervisor(directory, HostProcess(), own_command())


def guests_of_lab(home: Path, lab: str, hypervisor: str) -> OwnGuests:
    """The guests of a lab, for its services.

    Args:
        home: of the lab, by the name under which it was made.
        lab: its name.
        hypervisor: `embedded` or a libvirt URI.
    """
    from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor
    from emulator.core.hypervisors import EMBEDDED
    from emulator.lab.names import identity_of, namespace_name
    from emulator.lab.own_guests import OwnGuests

    uri, of = hypervisor, Home(home)
    if hypervisor == EMBEDDED:
        uri = EmbeddedHypervisor(of.lab(lab).hypervisor, namespace_name(of, lab), HostProcess()).uri()
    return OwnGuests(lambda: _connect(uri, ()), identity_of(of, lab))


def way_into_lab(
    home: Path, lab: str, targets: tuple[Target, ...]
) -> Callable[[float], tuple[tuple[Endpoint, ...], str]]:
    """What a lab's service publishes in the host's gateway at a time, in seconds since the epoch.

    Args:
        home: of the lab, by the name under which it was made.
        lab: its name.
        targets: what its users may reach.
    """
    from emulator.credentials.gateway import OpenLab
    from emulator.credentials.ssh_certificates import SshCertificates

    of, certificates = Home(home), SshCertificates(Home(home).lab(lab), HostProcess())

    def at(now: float) -> tuple[tuple[Endpoint, ...], str]:
        trust = certificates.read()
        opened, book = OpenLab(of.id, lab, trust.authorities, targets), trust.book.at(now)
        return opened.endpoints(book), opened.authorized_keys(book, now)

    return at


def _accelerate(requested: Acceleration) -> AccelerationDecision:
    from emulator.adapters.system.acceleration import read_acceleration_facts
    from emulator.host.acceleration import decide_acceleration

    return decide_acceleration(requested, read_acceleration_facts())


# ---------------------------------------------------------------- GPUs
def _gpus(backend: str, paths: LabPaths, devices: Sequence[GpuDeviceSpec] | None, *, dry: bool) -> GpuHost:
    from emulator.adapters.simulated.scratch import scratch_copy
    from emulator.adapters.system.host_files import HostFiles
    from emulator.apply.gpu_ownership import host_ledger

    if backend != GpuBackend.SIMULATED:
        return assemble_gpus(HostFiles(), HostProcess(), host_ledger(Home.default()), real=True)
    # Declaring simulated GPUs writes their state, so that a dry run needs a copy.
    return simulated_gpus(scratch_copy(paths.gpu) if dry else paths.gpu, devices)


def simulated_gpus(directory: Path, devices: Sequence[GpuDeviceSpec] | None) -> GpuHost:
    """Simulated GPUs whose state lies in `directory`; `devices` None leaves the GPUs as they are."""
    from emulator.adapters.simulated.gpus import SimulatedGpu, SimulatedGpus
    from emulator.apply.gpu_ownership import GpuLedger
    from emulator.gpu.ports import VgpuFramework

    gpus = [SimulatedGpu(item.id, item.model, item.pci_address) for item in devices] if devices else None
    simulation = SimulatedGpus(directory, gpus, framework=VgpuFramework.MDEV if gpus else None)
    simulation.install()
    return assemble_gpus(simulation.files, simulation.runner, GpuLedger(directory / "owners.json"), real=False)


def assemble_gpus(files: FileAccess, runner: ProcessRunner, ledger: GpuLedger, *, real: bool) -> GpuHost:
    """The GPU adapters over one view of the kernel's files; NVML is whatever library lies under pynvml."""
    from emulator.adapters.nvidia.nvml import NvmlGpus
    from emulator.adapters.nvidia.passthrough import VfioPassthrough
    from emulator.adapters.nvidia.pci_sysfs import SysfsPci
    from emulator.adapters.nvidia.sriov import SriovManage
    from emulator.adapters.nvidia.vgpu_mdev import MdevHost
    from emulator.adapters.nvidia.vgpu_vfio import VendorVfioHost
    from emulator.apply.handlers.gpu.host import GpuHost
    from emulator.gpu.ports import VgpuFramework

    nvml = NvmlGpus()

    def vgpus(framework: VgpuFramework) -> VgpuHost:
        return MdevHost(files) if framework is VgpuFramework.MDEV else VendorVfioHost(files, nvml.vgpu_type_names)

    return GpuHost(
        nvml=nvml,
        pci=SysfsPci(files),
        sriov=SriovManage(files, runner),
        vgpus=vgpus,
        passthrough=VfioPassthrough(files),
        ledger=ledger,
        real=real,
    )


# ---------------------------------------------------------------- images
def image_store() -> ImageStore:
    """The golden images of this host."""
    from emulator.images.store.store import ImageStore

    return ImageStore(Home.default().images, HostProcess())


def images_of_host() -> LabImages:
    """The store, with the default Kubernetes for images that contain it."""
    return lab_images(Home.default(), HostProcess(), None)


def lab_images(home: Home, runner: ProcessRunner, kubernetes: KubernetesSpec | None) -> LabImages:
    """The store, with the input of the image of Kubernetes nodes; `kubernetes` None is the default one."""
    from emulator.images.lab_images import LabImages
    from emulator.images.store.store import ImageStore
    from emulator.images.supply_chain.signing import ImageSignatures
    from emulator.kubernetes.release.image_input import KubernetesInput

    inputs = {"kubernetes": KubernetesInput(home, runner, kubernetes or KubernetesSpec())}
    return LabImages(ImageStore(home.images, runner), inputs, ImageSignatures(home.trusted_signers, runner))


def nightly_builds(spec: ClusterSpec) -> Builds:
    """The golden images of a lab, to be built anew at night."""
    from emulator.operations.nightly.builds import StoreBuilds

    return StoreBuilds(lab_images(Home.default(), HostProcess(), spec.kubernetes))


def notifiers(path: Path) -> tuple[Notifier, ...]:
    """Who is notified of what nobody watched, by a file of the host's."""
    from emulator.adapters.notify.settings import read_notifiers

    return read_notifiers(path)


def _upgrade_files(wants: KubernetesSpec, progress: Callable[[str, str], None]) -> UpgradeFiles:
    from emulator.kubernetes.release.image_input import kubernetes_sources

    return kubernetes_sources(Home.default(), HostProcess()).upgrade_files(wants, progress=progress)


def image_signatures() -> ImageSignatures:
    """Signing and checking images on this host."""
    from emulator.images.supply_chain.signing import ImageSignatures

    return ImageSignatures(Home.default().trusted_signers, HostProcess())


def vulnerability_listing() -> VulnerabilityListing:
    """Debian's knowledge of vulnerabilities in the packages of images."""
    from emulator.images.supply_chain.vulnerabilities import VulnerabilityListing

    return VulnerabilityListing(HostProcess())


def bundles_of_host() -> Bundles:
    """Offline Kubernetes bundles on this host."""
    from emulator.kubernetes.release.image_input import Bundles

    return Bundles(Home.default(), HostProcess())


def accept_upstream_digest(subject: str, digest: str) -> Pin | None:
    """Let something of upstream's have another digest on this host; what it had before."""
    from emulator.kubernetes.release.image_input import accept_digest

    return accept_digest(Home.default(), subject, digest)


# ---------------------------------------------------------------- the host itself
def gateway_of_host() -> GatewayHost:
    """This host, for its gateway."""
    from emulator.adapters.embedded.network_namespace import NetworkNamespace
    from emulator.adapters.system.systemd_units import SystemdUnits
    from emulator.apply.lock import host_locks
    from emulator.core.gateway.names import NAMESPACE
    from emulator.operations.host.gateway import GatewayHost

    home, runner = Home.system(), HostProcess()
    return GatewayHost(
        home=home,
        locks=host_locks(Home.default()),
        runner=runner,
        units=SystemdUnits(runner),
        supervisor=supervisor_in(home.gateway / "supervisor"),
        namespace=NetworkNamespace(NAMESPACE, "the gateway of this host", runner),
    )


def door_of_host() -> Door | None:
    """How users find the gateway of this host; None without one."""
    from emulator.operations.host.gateway import open_door

    return open_door(Home.system())


def this_host() -> PreparedHost:
    """This host, for commands that prepare and restore it."""
    from emulator.adapters.system.host_edits import HostEdits
    from emulator.operations.host.record import PreparedHost, backups_of

    home = Home.default()
    edits = HostEdits(Path("/"), backups_of(home))
    return PreparedHost(home, host_reader(None), edits, HostProcess())


def host_reader(root: Path | None) -> Callable[[], HostReadings]:
    """Reads this host or, with `root`, the host that was recorded there."""
    from emulator.adapters.system.host_files import HostFiles, RecordedFiles
    from emulator.adapters.system.host_probe import LiveProbe, RecordedProbe
    from emulator.adapters.system.host_readings import HostReader
    from emulator.host.wanted_packages import wanted_packages

    probe: HostProbe = LiveProbe(HostProcess()) if root is None else RecordedProbe(root)
    files = HostFiles() if root is None else RecordedFiles(root)
    return HostReader(files, probe, home=Home.default().root, wanted_packages=wanted_packages()).read
