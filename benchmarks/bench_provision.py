"""The product's overhead until all domains run, as a ratio to a bare script that makes the same libvirt calls.

    python benchmarks/bench_provision.py [--nodes 5] [--pairs 5]

Both sides start a private libvirtd, make one network, one overlay for each node and start all domains in parallel on
emulated CPUs; the product also plans, observes, journals with fsync, makes keys and secrets, loads the packet filter,
starts the lab's supervisor with its services, and gives QEMU an account of its own. libvirtd learns what QEMU can by
starting it a few times, which takes longer than all else, unless it has a cache of that. So there are two figures: with
a cache that is empty at the start of each run, and with one that is filled, the same on both sides. The sides take
turns in who begins a pair; a pair before the first is not counted; a figure is the median of the ratios pair by pair.
Needs root and the image that Slurm nodes start from.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import libvirt

from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor
from emulator.adapters.embedded.qemu_capabilities import QemuCapabilities
from emulator.adapters.system.process import HostProcess
from emulator.apply.executor import Executor
from emulator.apply.journal import Journal
from emulator.apply.state import StateStore
from emulator.core.debian.releases import image_of
from emulator.core.hypervisors import EMBEDDED
from emulator.core.paths import Home, LabPaths
from emulator.core.progress import SilentReporter
from emulator.host.acceleration import AccelerationDecision
from emulator.images.store.golden_image import GoldenImage
from emulator.lab.lab import Backends, open_lab
from emulator.lab.open_journal import open_record
from emulator.lab.planning.plan import plan_lab
from emulator.labfile.load import parse_spec
from emulator.labfile.model import ClusterSpec
from emulator.wiring import image_store, real_environment

LAB = "bench"
BOUND = 1.3
"""The product's seconds to the script's, with a warm cache and with a cold one."""
SPEC = """
version: "1.0"
metadata: {{name: {lab}}}
clusters:
  hpc:
    controller: {{cpu_cores: 1, memory_gb: 0.5, disk_gb: 8}}
    compute_nodes: {{count: {compute}, cpu_cores: 1, memory_gb: 0.5, disk_gb: 8}}
hypervisor: {{uri: embedded}}
"""
NETWORK = """<network><name>{name}</name><bridge name='virbr100'/>
<ip address='192.168.100.1' netmask='255.255.255.0'><dhcp>{hosts}</dhcp></ip></network>"""
DOMAIN = """<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>512</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>
<cmdline>{cmdline}</cmdline></os><features><acpi/></features><cpu mode='maximum'/><devices>
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>
<target dev='vda' bus='virtio'/></disk>
<interface type='network'><mac address='{mac}'/><source network='{network}'/><model type='virtio'/></interface>
<serial type='file'><source path='{console}'/></serial><memballoon model='none'/></devices></domain>"""


def product(spec: ClusterSpec, known: QemuCapabilities) -> float:
    """Seconds until all domains run, by the product."""
    home = Home(Path(tempfile.mkdtemp(prefix="bench-")))

    def daemon(directory: Path, namespace: str) -> EmbeddedHypervisor:
        paths = LabPaths(directory.parent)
        mine, others = (paths.disks, paths.console), (Home.default().images,)
        return EmbeddedHypervisor(directory, namespace, HostProcess(), known, writable=mine, readable=others)

    env = replace(real_environment(), home=home, daemon=daemon)
    try:
        started = time.perf_counter()
        paths = home.lab(LAB)
        lab = open_lab(env, open_record(env.home, LAB), Backends(EMBEDDED))
        for directory in (paths.root, paths.console):
            directory.mkdir(parents=True)
        store = StateStore(Journal(paths.journal))
        plan = plan_lab(lab, store.state, spec, AccelerationDecision(accelerated=False))
        Executor(lab.handlers, store, SilentReporter()).apply(plan)
        return time.perf_counter() - started
    finally:
        lab.session.reset()
        EmbeddedHypervisor(paths.hypervisor, lab.namespace or "", HostProcess()).stop()
        shutil.rmtree(home.root)
        env.guest_accounts.release(LAB)


def bare(spec: ClusterSpec, image: GoldenImage, known: QemuCapabilities) -> float:
    """Seconds until all domains run, by a script without any safety."""
    root = Path(tempfile.mkdtemp(prefix="bench-"))
    daemon = EmbeddedHypervisor(root / "hypervisor", f"hs-bare-{root.name[-6:]}", HostProcess(), known)
    try:
        started = time.perf_counter()
        connection = libvirt.open(daemon.start())
        nodes = {node.name: f"52:54:00:00:00:{number:02x}" for number, node in enumerate(spec.nodes)}
        hosts = "".join(f"<host mac='{nodes[node.name]}' name='{node.name}' ip='{node.ip}'/>" for node in spec.nodes)
        connection.networkDefineXML(NETWORK.format(name="bare", hosts=hosts)).create()

        def make(name: str) -> None:
            disk = root / f"{name}.qcow2"
            subprocess.run(
                ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image.disk, disk, "8G"], check=True
            )
            xml = DOMAIN.format(
                name=name,
                uuid=uuid4(),
                kernel=image.kernel,
                initrd=image.initrd,
                cmdline=" ".join(image.cmdline),
                disk=disk,
                mac=nodes[name],
                network="bare",
                console=root / f"{name}.log",
            )
            connection.defineXML(xml).create()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(make, nodes))
        connection.close()
        return time.perf_counter() - started
    finally:
        daemon.stop()
        shutil.rmtree(root)


Side = Callable[[QemuCapabilities], float]


def pairs(ours: Side, theirs: Side, count: int, cache: Path, *, warm: bool) -> Iterator[tuple[float, float]]:
    """Seconds of both sides, pair by pair. `cache`: what is known of QEMU; emptied before each run unless `warm`."""

    def run(side: Side) -> float:
        if not warm:
            shutil.rmtree(cache, ignore_errors=True)
        return side(QemuCapabilities(cache))

    for number in range(count + 1):
        order = (ours, theirs) if number % 2 else (theirs, ours)
        seconds = {side: run(side) for side in order}
        if number:  # the one before is for the host's own caches, and fills a warm one
            yield seconds[ours], seconds[theirs]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    spec, report = parse_spec(SPEC.format(lab=LAB, compute=options.nodes - 1), file="bench")
    image = image_store().current(name := image_of("hpc-base", None))
    if spec is None or image is None:
        raise SystemExit(f"cannot start: {report.findings or 'no image; hyperscaler image build ' + name}")
    print(
        f"compared: the product and a script with the same libvirt calls, until {options.nodes} domains run;"
        " cold: libvirt knows nothing of QEMU, warm: it does; the same on both sides",
        flush=True,
    )
    good = True
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        cache = Path(directory) / "capabilities"
        for state in ("cold", "warm"):
            ratios = []
            for ours, theirs in pairs(
                lambda known: product(spec, known),
                lambda known: bare(spec, image, known),
                options.pairs,
                cache,
                warm=state == "warm",
            ):
                ratios.append(ours / theirs)
                print(f"{state}: product {ours:.2f} s, script {theirs:.2f} s, ratio {ratios[-1]:.2f}", flush=True)
            middle = statistics.median(ratios)
            good &= middle <= BOUND
            print(
                f"{state}, {options.nodes} nodes: median ratio {middle:.2f},"
                f" {min(ratios):.2f} to {max(ratios):.2f} (bound {BOUND:g})",
                flush=True,
            )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
