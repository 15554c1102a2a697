"""A lab of tiny guests on a real private libvirtd: real networks, disks, domains and simulated GPUs, no images.

The guests halt at once, so everything that is done inside of guests is left out; all of what is done on the host is
the product's own.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor
from emulator.adapters.embedded.qemu_capabilities import QemuCapabilities
from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor
from emulator.adapters.simulated.calls import CallHook
from emulator.adapters.system.account_numbers import HostAccountNumbers
from emulator.adapters.system.nft import NftPacketFilter
from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.qemu_img import QemuImg
from emulator.adapters.system.systemd_units import SystemdUnits
from emulator.apply.gpu_ownership import GpuLedger
from emulator.apply.guest_accounts.ledger import AccountLedger
from emulator.apply.handlers.gpu.host import GpuHost
from emulator.apply.journal import Journal
from emulator.apply.state import State, StateStore
from emulator.core.hypervisors import EMBEDDED, SystemHypervisor
from emulator.core.paths import Home, LabPaths
from emulator.core.ports import DomainInfo, GuestAddress
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.guests.ports import Access, ConfigureOutcome
from emulator.host.acceleration import AccelerationDecision
from emulator.host.facts import HostFacts
from emulator.lab.environment import Environment
from emulator.lab.lab_files import LoadedLab, load_lab_file
from emulator.lab.names import namespace_name
from emulator.lab.open_journal import open_record
from emulator.lab.planning.plan import open_to_plan, plan_lab
from emulator.labfile.model import ClusterKind, ClusterSpec, GpuDeviceSpec
from emulator.operations.destroy import destroy
from emulator.operations.provision import Options, ProvisionResult, provision
from emulator.plan.model import Plan
from emulator.wiring import simulated_gpus, supervisor_in
from tests.support.simulated_world import HookedPort, Image, SimulatedGuests
from tests.support.tiny_guest import halting_kernel

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


def tiny_lab(name: str, *, compute: int = 1, slices: bool = False) -> str:
    """A controller and `compute` nodes of half a GiB, of which they touch nothing."""
    devices = "[{id: gpu-0, model: A100-SXM4-80GB, mig_capable: true, allowed_mig_profiles: [1g.10gb]}]"
    gpus = f"global: {{gpu_allocation: {{backend: simulated, strategy: mig, devices: {devices}}}}}"
    return f"""\
version: "1.0"
metadata: {{name: {name}}}
timeouts: {{boot: 30}}
{gpus if slices else ""}
clusters:
  hpc:
    controller: {{cpu_cores: 1, memory_gb: 0.5, disk_gb: 2}}
    compute_nodes:
      count: {compute}
      cpu_cores: 1
      memory_gb: 0.5
      disk_gb: 2
      {"gpu: {count: 1, profile: 1g.10gb}" if slices else "gpu_enabled: false"}
hypervisor: {{uri: embedded}}
"""


@dataclass(frozen=True)
class Boot:
    """What guests boot: contents of the files, and the kernel's command line."""

    kernel: bytes = field(default_factory=halting_kernel)
    initrd: bytes = field(default_factory=lambda: os.urandom(512))
    cmdline: tuple[str, ...] = ("root=/dev/vda1",)


class TinyImages:
    """Images of 64 MiB that hold nothing, and a kernel that halts unless `boot` gives another."""

    def __init__(self, directory: Path, boot: Boot) -> None:
        self._image = Image("hpc-base", directory / "hpc-base", cmdline=boot.cmdline)
        if not self._image.kernel.exists():
            self._image.directory.mkdir(parents=True)
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", self._image.disk, "64M"], check=True)
            self._image.initrd.write_bytes(boot.initrd)
            self._image.kernel.write_bytes(boot.kernel)

    def current(self, name: str) -> Image:
        return self._image

    def kept(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def needs_build(self, name: str) -> str | None:
        return None

    def follow(self, name: str, disk: Path | None) -> None:
        return None

    def contents(self, name: str) -> str:
        return ""

    def owning(self, disk: Path) -> Image | None:
        return self._image if disk == self._image.disk else None


class SilentShell:
    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        return True


class SilentGuests(SimulatedGuests):
    """Guests of which only their domains can be seen: what is simulated elsewhere is done to nothing here."""

    def __init__(self) -> None:
        self._hook = CallHook()  # calls of guests are no places to be stopped at

    def parse_host_keys(self, console: str) -> Sequence[str]:
        return (KEY,)

    def shell(self, access: Access) -> Any:
        return SilentShell()

    def configure(self, spec: ClusterSpec, kind: ClusterKind, *_rest: object, **_options: object) -> ConfigureOutcome:
        return ConfigureOutcome({node.name: 0 for node in spec.nodes_of(kind)}, 0.0)

    def _domains(self, access: Access) -> Sequence[DomainInfo]:
        daemon = EmbeddedHypervisor(access.paths.hypervisor, access.prefix[-1], HostProcess())
        connection = LibvirtHypervisor(daemon.uri())
        try:
            return connection.domains()
        finally:
            connection.close()


@dataclass
class RealLab:
    """Home, images and file of one lab in `root`; each call of an adapter goes through `hook`. `text` is the lab file,
    else that of a tiny lab; `boot` is what its guests boot.

    `gpus` is the directory of simulated GPUs that several labs share; without it a lab has its own.
    """

    root: Path
    name: str
    slices: bool = False
    gpus: Path | None = None
    text: str = ""
    boot: Boot = field(default_factory=Boot)

    def __post_init__(self) -> None:
        self.hook = CallHook()
        self.home = Home(self.root / "home")
        self.home.root.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.images = TinyImages(self.home.images, self.boot)
        file = self.root / f"{self.name}.yaml"
        file.write_text(self.text or tiny_lab(self.name, slices=self.slices))
        self.file: LoadedLab = load_lab_file(file)
        assert not self.file.report.errors, self.file.report.errors
        self._gpus: list[GpuHost] = []

    @property
    def paths(self) -> LabPaths:
        return self.home.lab(self.name)

    @property
    def namespace(self) -> str:
        return namespace_name(self.home, self.name)

    def _hooked(self, name: str, port: object) -> Any:
        return HookedPort(port, name, self.hook)

    def environment(self) -> Environment:
        self.close()
        runner, known = HostProcess(), QemuCapabilities(self.home.qemu_capabilities)
        accounts = AccountLedger(
            self.home.guest_accounts,
            self.home.locks / "accounts",
            HostAccountNumbers(places=[self.root]),
            home=self.home.id,
        )
        return Environment(
            home=self.home,
            host_locks=self.home.locks,
            gpu_ledger=GpuLedger(self.home.gpu_owners),
            guest_accounts=accounts,
            runner=self._hooked("process", runner),
            disks=self._hooked("disks", QemuImg(runner)),
            images=lambda _kubernetes: cast(Any, self.images),
            guests=SilentGuests(),
            choose_hypervisor=lambda _wanted: EMBEDDED,
            system_hypervisor=lambda _lab: SystemHypervisor.EMPTY,
            accelerate=lambda _wanted: AccelerationDecision(accelerated=False),
            daemon=lambda directory, namespace: self._hooked(
                "daemon",
                EmbeddedHypervisor(
                    directory,
                    namespace,
                    runner,
                    known,
                    account=lambda: accounts.of_lab(self.name),
                    writable=(directory.parent / "disks", directory.parent / "console"),
                    readable=(self.home.images,),
                ),
            ),
            connect=lambda uri, prefix: self._hooked("libvirt", LibvirtHypervisor(uri, prefix)),
            packet_filter=lambda prefix: self._hooked("filter", NftPacketFilter(runner, prefix)),
            supervisor=lambda directory: self._hooked("services", supervisor_in(directory)),
            host_facts=lambda: HostFacts(64, 262144, 200000, 4000.0),
            gpus=self._open_gpus,
            units=self._hooked("units", SystemdUnits(runner, self.root / "units", self.root / "none")),
            upgrade_files=cast(Any, None),
        )

    def _open_gpus(
        self, backend: str, paths: LabPaths, devices: Sequence[GpuDeviceSpec] | None, *, dry: bool
    ) -> GpuHost:
        own = self.root / "scratch" if dry and not paths.gpu.is_dir() else paths.gpu
        directory = self.gpus or own
        self._gpus.append(simulated_gpus(directory, devices))
        return self._gpus[-1]

    def close(self) -> None:
        for host in self._gpus:
            host.nvml.close()
        self._gpus.clear()

    # ------------------------------------------------------------ commands
    def provision(self) -> ProvisionResult:
        return provision(self.environment(), self.file, Options(), SilentReporter(), StopFlag())

    def destroy(self) -> Plan:
        return destroy(self.environment(), self.name, SilentReporter(), StopFlag(), confirm=lambda _plan: True).plan

    def state(self) -> State:
        return StateStore(Journal(self.paths.journal), boot_id="b").state

    def plan(self) -> Plan:
        env, state = self.environment(), self.state()
        lab = open_to_plan(env, open_record(env.home, self.file.spec.name), self.file.spec)
        plan = plan_lab(lab, state, self.file.spec, AccelerationDecision(accelerated=False))
        lab.session.reset()
        return plan


def host_traces(root: Path, namespace: str) -> dict[str, object]:
    """Everything on the host that a lab below `root` could have left behind; what others do meanwhile is not seen."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "namespace": Path("/run/netns", namespace).exists(),
        "processes": processes_below(root),
        "mounts": sorted(mount for mount in mounts if str(root) in mount or mount == f"/run/netns/{namespace}"),
        "links": sorted(
            path.name for path in Path("/run/hyperscaler").glob("*") if path.resolve().is_relative_to(root.resolve())
        ),
        "labs": sorted(str(path) for path in (root / "home" / "labs").rglob("*")),
    }


def processes_below(root: Path) -> list[str]:
    """Command lines that name a path below `root`, of others than this process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue  # ended while we looked
            if str(root) in command:
                found.append(command)
    return sorted(found)
