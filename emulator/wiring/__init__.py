"""The composition root: the only place that chooses adapters."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from emulator.adapters.acceleration import decide_acceleration, read_acceleration_facts
from emulator.adapters.process import HostProcess
from emulator.adapters.qemu_img import QemuImg
from emulator.app.world import AccelerationChoice, World
from emulator.apply.handlers.gpu_carve import GpuHost
from emulator.images.for_labs import LabImages
from emulator.images.store import ImageStore
from emulator.paths import Home, LabPaths
from emulator.ports import Hypervisor, HypervisorDaemon, ProcessRunner
from emulator.spec.model import Acceleration, GpuBackend, GpuDeviceSpec, KubernetesSpec


def image_store() -> ImageStore:
    """The golden images of this host."""
    return ImageStore(Home.default().images, HostProcess())


def real_world() -> World:
    """This host."""
    from emulator.host.facts import read_host_facts
    from emulator.wiring.guests import RealGuests

    home = Home.default()
    runner = HostProcess()
    return World(
        home=home,
        runner=runner,
        disks=QemuImg(runner),
        images=lambda kubernetes: lab_images(home, runner, kubernetes),
        guests=RealGuests(runner),
        choose_hypervisor=choose_hypervisor,
        accelerate=accelerate,
        daemon=_daemon,
        connect=_connect,
        host_facts=lambda: read_host_facts(home.root),
        gpus=_gpus,
    )


def images_of_host() -> LabImages:
    """The store, with the default Kubernetes for images that take it in."""
    return lab_images(Home.default(), HostProcess(), None)


def lab_images(home: Home, runner: ProcessRunner, kubernetes: KubernetesSpec | None) -> LabImages:
    """The store; with `kubernetes` also what goes into the image of Kubernetes nodes."""
    from emulator.wiring.kubernetes import KubernetesInput

    inputs = {"kubernetes": KubernetesInput(home, runner, kubernetes or KubernetesSpec())}
    return LabImages(ImageStore(home.images, runner), inputs)


def _daemon(directory: Path, namespace: str) -> HypervisorDaemon:
    from emulator.adapters.embedded import EmbeddedHypervisor

    return EmbeddedHypervisor(directory, namespace, HostProcess())


def _gpus(backend: str, paths: LabPaths, devices: Sequence[GpuDeviceSpec] | None, *, dry: bool) -> GpuHost:
    from emulator.wiring.gpus import real_gpus, simulated_gpus

    if backend != GpuBackend.SIMULATED:
        return real_gpus(HostProcess(), Home.default().gpu_owners)
    if not dry:
        return simulated_gpus(paths.gpu, devices)
    # Declaring boards writes their state, so planning works on a copy.
    scratch = Path(tempfile.mkdtemp(prefix="hyperscaler-gpu-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    if paths.gpu.is_dir():
        shutil.copytree(paths.gpu, scratch, dirs_exist_ok=True)
    return simulated_gpus(scratch, devices)


def _connect(uri: str, prefix: tuple[str, ...]) -> Hypervisor:
    from emulator.adapters.libvirt_hypervisor import LibvirtHypervisor

    return LibvirtHypervisor(uri, prefix)


def choose_hypervisor(requested: str) -> str:
    """`auto` is the host's own libvirt where it answers, else a private one."""
    from emulator.adapters.libvirt_hypervisor import choose_uri, probe_uri

    return choose_uri(requested, probe=probe_uri)


def accelerate(requested: Acceleration) -> AccelerationChoice:
    """KVM only where CPU, kernel and QEMU agree.

    libvirt is not asked: the embedded one may not run yet, and what it reports is that QEMU was built with KVM
    and /dev/kvm opens, which the other two signs cover.
    """
    facts = read_acceleration_facts()
    decision = decide_acceleration(
        requested, cpuinfo=facts.cpuinfo, kvm_usable=facts.kvm_usable, libvirt_offers_kvm=facts.kvm_usable
    )
    return AccelerationChoice(decision.accelerated, decision.warning)
