"""A whole machine in a directory: the real pipeline runs on it, and a test can stop it anywhere.

Everything that outlives a process lies in files below `SimulatedHost.root`, so that a snapshot of the directory is
what a crash at that instant leaves behind, and a restored snapshot is a machine on which the next command runs.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import itertools
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid5
from zlib import crc32

from emulator.adapters.simulated.calls import CallHook
from emulator.adapters.simulated.disks import SimulatedDisks, data_of
from emulator.adapters.simulated.gpus import SimulatedGpu, SimulatedGpus
from emulator.adapters.simulated.guests import SimulatedShell
from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.adapters.simulated.packet_filter import SimulatedPacketFilter
from emulator.adapters.simulated.services import SUPERVISOR, SimulatedSupervisor
from emulator.adapters.system.systemd_units import SystemdUnits
from emulator.apply.gpu_ownership import Claim, GpuLedger
from emulator.apply.guest_accounts.ledger import AccountLedger, Entries, Owner
from emulator.apply.handlers.gpu.host import GpuHost
from emulator.apply.journal import Journal
from emulator.apply.ledger_file import is_whole
from emulator.apply.state import State, StateStore
from emulator.core.errors import HypervisorError
from emulator.core.fs import replace_file, write_private
from emulator.core.gateway.names import Door
from emulator.core.hypervisors import EMBEDDED, SystemHypervisor
from emulator.core.ids import NAMESPACE
from emulator.core.paths import Home, LabPaths
from emulator.core.ports import DaemonPresence, DomainInfo, DomainState, GuestAddress
from emulator.core.ports.guest_accounts import RESERVED
from emulator.core.progress import Reporter, SilentReporter
from emulator.core.stop import StopFlag
from emulator.credentials.rotation_phases import RotatedSecret
from emulator.credentials.ssh_trust import CertificateOrder
from emulator.credentials.users import LabUser
from emulator.gpu.ports import VgpuFramework
from emulator.guests.ports import Access, ConfigureOutcome, NodeUpgrade
from emulator.guests.ssh import host_keys_from_console
from emulator.guests.verify.report import CheckResult
from emulator.host.acceleration import AccelerationDecision
from emulator.host.facts import HostFacts
from emulator.host.routes import HostNetwork
from emulator.kubernetes.release.upgrade_files import UpgradeFiles
from emulator.lab.environment import Environment
from emulator.lab.lab_files import LoadedLab, load_lab_file
from emulator.lab.names import namespace_name
from emulator.lab.open_journal import open_record
from emulator.lab.planning.plan import open_to_plan, plan_lab
from emulator.labfile.kubernetes_versions import is_asked_for
from emulator.labfile.model import ClusterKind, ClusterSpec, GpuBackend, GpuDeviceSpec, KubernetesSpec
from emulator.operations.destroy import destroy
from emulator.operations.provision import Options, ProvisionResult, provision
from emulator.plan.model import Plan
from emulator.wiring import assemble_gpus
from tests.support.fake_runner import FakeRunner
from tests.support.guest_accounts import CountedNumbers
from tests.support.kubernetes_cluster import REPOSITORY, Cluster, ClusterShell

SYSTEM_URI = "qemu:///system"
FIRST, SECOND, THIRD = "0000:41:00.0", "0000:42:00.0", "0000:43:00.0"
LAB = "demo"


class HookedPort:
    """Any adapter with every call going through the hook."""

    def __init__(self, port: object, name: str, hook: CallHook) -> None:
        self._port, self._name, self._hook = port, name, hook

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._port, attribute)
        if not callable(value):
            return value

        def call(*args: object, **options: object) -> object:
            with self._hook.around(f"{self._name}.{attribute}"):
                return value(*args, **options)

        return call


# ---------------------------------------------------------------- the host's parts
class SimulatedDaemon:
    """`HypervisorDaemon`: a marked directory, and a file in the machine's directory while its processes live."""

    def __init__(self, directory: Path, namespace: str, machine: Path, hook: CallHook) -> None:
        self._directory, self._hook = directory, hook
        self._marker = directory / "embedded.json"
        self._process = machine / "namespaces" / namespace
        self._tables = machine / "tables" / namespace

    def presence(self) -> DaemonPresence:
        with self._hook.around("daemon.presence"):
            return self._presence()

    def _presence(self) -> DaemonPresence:
        marked, lives = self._marker.exists(), self._process.exists()
        if marked and lives:
            return DaemonPresence.UP
        return DaemonPresence.DOWN if marked or lives else DaemonPresence.ABSENT

    def start(self) -> str:
        # Two effects, so two places to be stopped between.
        with self._hook.around("daemon.start"):
            if not self._marker.exists():
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                replace_file(self._marker, b"{}")  # whole or not at all: another effect may end the process meanwhile
        with self._hook.around("daemon.launch"):
            self._process.write_text(str(self._directory))
        return self.uri()

    def uri(self) -> str:
        return f"embedded:{self._directory}"

    def stop(self) -> None:
        with self._hook.around("daemon.stop"):
            self._process.unlink(missing_ok=True)
            self._tables.unlink(missing_ok=True)
        with self._hook.around("daemon.remove"):
            for file in self._directory.glob("*"):
                if file != self._marker:
                    file.unlink()
            self._marker.unlink(missing_ok=True)
            if self._directory.exists():
                self._directory.rmdir()


@dataclass(frozen=True)
class Image:
    name: str
    directory: Path
    digest: str = "0123456789abcdef"
    cmdline: tuple[str, ...] = ("root=/dev/vda1",)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"


class SimulatedImages:
    """`Images`: three small files for each image; the kernel last, since it tells that the image is whole."""

    def __init__(self, root: Path, hook: CallHook) -> None:
        self._root, self._hook = root, hook

    def _image(self, name: str) -> Image | None:
        image = Image(name, self._root / name)
        return image if image.kernel.exists() else None

    def current(self, name: str) -> Image | None:
        with self._hook.around("images.current"):
            return self._image(name)

    @contextmanager
    def kept(self, name: str) -> Iterator[None]:
        with self._hook.around("images.kept"):
            yield

    def needs_build(self, name: str) -> str | None:
        with self._hook.around("images.needs_build"):
            return None if self._image(name) else "never built"

    def follow(self, name: str, disk: Path | None) -> None:
        """There is one build of each name."""

    def contents(self, name: str) -> str:
        return ""

    def build(self, name: str, *, progress: Callable[[str], None]) -> Image:
        with self._hook.around("images.build"):
            progress(f"building {name}")
            image = Image(name, self._root / name)
            image.directory.mkdir(parents=True, exist_ok=True)
            for file in (image.disk, image.initrd, image.kernel):
                file.write_text(file.name)
            return image

    def owning(self, disk: Path) -> Image | None:
        with self._hook.around("images.owning"):
            image = self._image(disk.parent.name)
            return image if image and image.disk.resolve() == disk.resolve() else None


class KeygenRunner(FakeRunner):
    """A host that has ssh-keygen alone, which writes the private half before the public one."""

    def __init__(self, hook: CallHook) -> None:
        super().__init__()
        self._hook = hook
        self.on("ssh-keygen", lambda call: self.keygen(call.argv))

    def keygen(self, words: tuple[str, ...]) -> None:
        target = Path(words[words.index("-f") + 1])
        with self._hook.around("ssh-keygen private"):
            target.touch(mode=0o600)
            target.write_text("PRIVATE KEY\n")
        with self._hook.around("ssh-keygen public"):
            target.with_name(f"{target.name}.pub").write_text("ssh-ed25519 AAAA lab\n")


class Disks(SimulatedDisks):
    """A disk that is made anew has nothing of the configuration that the guest of the old one got."""

    def __init__(self, machine: Path, hook: CallHook) -> None:
        super().__init__(hook=hook)
        self._configured = Configured(machine)

    def create_overlay(self, path: Path, *, base: Path, size_gib: int) -> None:
        super().create_overlay(path, base=base, size_gib=size_gib)
        self._configured.forget(path)


class Configured:
    """Which disks hold a configured guest, and with what. The clusters of a lab are configured side by side."""

    _lock = threading.RLock()

    def __init__(self, machine: Path) -> None:
        self._file = machine / "configured.json"

    def read(self) -> dict[str, str]:
        return cast(dict[str, str], json.loads(self._file.read_text())) if self._file.exists() else {}

    def mark(self, disk: Path, role: str) -> bool:
        with self._lock:
            before = self.read()
            if before.get(str(disk)) == role:
                return False
            self._write({**before, str(disk): role})
            return True

    def forget(self, disk: Path) -> None:
        with self._lock:
            self._write({name: role for name, role in self.read().items() if name != str(disk)})

    def _write(self, content: dict[str, str]) -> None:
        content = {name: role for name, role in content.items() if Path(name).exists()}
        if content:
            self._file.write_text(json.dumps(content, sort_keys=True))
        else:
            self._file.unlink(missing_ok=True)


class SimulatedGuests:
    """`Guests`: a playbook changes what is not yet so on the disk, a probe looks at the machine."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host, self._hook = host, host.hook

    def parse_host_keys(self, console: str) -> Sequence[str]:
        return host_keys_from_console(console)

    def write_access(self, spec: ClusterSpec, access: Access, keys: Mapping[str, Sequence[str]] | None) -> None:
        with self._hook.around("guests.write_access"):
            write_private(access.paths.ssh_config, "".join(f"Host {node.name}\n" for node in spec.nodes).encode())
            if keys is not None:
                lines = [f"{name} {key}" for name, found in sorted(keys.items()) for key in found]
                write_private(access.paths.known_hosts, "\n".join(lines).encode())

    def shell(self, access: Access) -> SimulatedShell:
        hypervisor = self._host.hypervisor(access.paths if access.prefix else None)
        return ClusterShell(hypervisor, self._host.cluster, self._hook)

    def upgrade(
        self, spec: ClusterSpec, part: NodeUpgrade, access: Access, reporter: Reporter, stop: StopFlag
    ) -> ConfigureOutcome:
        changed = {}
        for name in part.nodes:
            with self._hook.around(f"guests.upgrade.{part.step.value}"):
                cluster = Cluster.read(self._host.cluster)
                assert cluster is not None
                changed[name] = int(cluster.take(part, name))
        return ConfigureOutcome(changed, 0.0)

    def user_key(self, spec: ClusterSpec, access: Access, order: CertificateOrder, *, revoked: Collection[str]) -> str:
        with self._hook.around("guests.user_key"):
            order.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            blobs = (base64.b64encode(f"{order.user}{n}".encode() * 40).decode()[:64] for n in itertools.count())
            made = (f"ssh-ed25519 {blob}" for blob in blobs)
            key = order.public_key or next(key for key in made if key not in revoked)
            (order.directory / "id_ed25519.pub").write_text(key)
            return key

    def issue(self, spec: ClusterSpec, access: Access, order: CertificateOrder) -> None:
        with self._hook.around("guests.issue"):
            key = (order.directory / "id_ed25519.pub").read_text()
            (order.directory / "id_ed25519-cert.pub").write_text(f"{order.serial} {order.seconds} {key}\n")
            if order.door is not None:
                (order.directory / "config").write_text(f"by {order.door.address} {order.door.port}\n")

    def configure(
        self,
        spec: ClusterSpec,
        kind: ClusterKind,
        access: Access,
        reporter: Reporter,
        stop: StopFlag,
        tags: tuple[str, ...] = (),
    ) -> ConfigureOutcome:
        changed = {}
        shell = self.shell(access)
        for node in spec.nodes_of(kind):
            with self._hook.around("guests.configure"):
                shell.run(GuestAddress(node.name, node.ip, spec.ssh.user), "true", timeout=1)
                gpus = [f"{gpu.type}:{gpu.count}" for gpu in access.gpus.get(node.name, ())]
                role = f"{node.role.value} {' '.join(gpus)}".strip()
                fresh = Configured(self._host.machine).mark(access.paths.disks / f"{node.name}.qcow2", role)
                changed[node.name] = 3 if fresh else 0
        return ConfigureOutcome(changed, 0.0)

    def end_work(self, paths: LabPaths) -> None:
        with self._hook.around("guests.end_work"):
            pass

    def verify(
        self, spec: ClusterSpec, kind: ClusterKind, access: Access, reporter: Reporter
    ) -> tuple[CheckResult, ...]:
        with self._hook.around("guests.verify"):
            states = {info.name: info.state for info in self._domains(access)}
            return tuple(
                CheckResult(node.name, states.get(f"{spec.name}-{node.name}") is DomainState.RUNNING, "", 0.0)
                for node in spec.nodes_of(kind)
            )

    def _domains(self, access: Access) -> Sequence[DomainInfo]:
        """What a probe sees of the lab's guests."""
        return self._host.hypervisor(access.paths if access.prefix else None, quiet=True).domains()

    def refusing(self, spec: ClusterSpec, access: Access, key: Path) -> tuple[str, ...]:
        with self._hook.around("guests.refusing"):
            return ()

    def prove(
        self, spec: ClusterSpec, secret: RotatedSecret, access: Access, reporter: Reporter
    ) -> tuple[CheckResult, ...]:
        with self._hook.around("guests.prove"):
            return ()

    def hand_kubeconfig(
        self, spec: ClusterSpec, access: Access, user: LabUser, *, seconds: int, directory: Path
    ) -> None:
        with self._hook.around("guests.hand_kubeconfig"):
            write_private(directory / "kubeconfig", f"{user.name} {seconds}".encode())

    def inventory(self, spec: ClusterSpec, access: Access, form: str) -> str:
        return ""

    def ssh_argv(self, access: Access, node: str, command: Sequence[str]) -> list[str]:
        return ["ssh", node, *command]

    def cluster_state(self, spec: ClusterSpec, access: Access, kinds: Sequence[ClusterKind]) -> Mapping[str, str]:
        names = {ClusterKind.HPC: "slurm", ClusterKind.CLOUD: "kubernetes"}
        return {names[kind]: f"{len(spec.nodes_of(kind)) - 1} idle" for kind in kinds}

    def kubeconfig(self, spec: ClusterSpec, access: Access, *, student: bool) -> str:
        return ""


class HookedLedger(GpuLedger):
    def __init__(self, path: Path, hook: CallHook, boot_id: Callable[[], str], home: str = "") -> None:
        super().__init__(path, boot_id=boot_id, home=home)
        self._hook = hook

    def _write(self, claims: Mapping[str, Claim]) -> None:
        with self._hook.around("ledger"):
            super()._write(claims)


class HookedAccounts(AccountLedger):
    """An owner's number is always the same, so that machines can be compared whatever was made first on them."""

    def __init__(self, home: Home, lock: Path, hook: CallHook, lab_home: str) -> None:
        super().__init__(home.guest_accounts, lock, CountedNumbers(), home=lab_home)
        self._hook = hook

    def _draw(self, owner: Owner, held: frozenset[int]) -> int:
        number = RESERVED[0][0] + crc32(repr(owner).encode()) % 2**24
        assert number not in held
        return number

    def _write(self, entries: Entries) -> None:
        with self._hook.around("accounts"):
            super()._write(entries)


# ---------------------------------------------------------------- the machine
Snapshot = dict[str, tuple[int, bytes | None]]
SIMULATED_GPUS = tuple(
    SimulatedGpu(f"gpu-{index}", "A100-SXM4-80GB", address) for index, address in enumerate((FIRST, SECOND, THIRD))
)


class SimulatedHost:
    """A machine in `root`; `gpus` are those that the driver sees (the backend `nvml`)."""

    def __init__(
        self, root: Path, *, gpus: Sequence[SimulatedGpu] = (), framework: VgpuFramework = VgpuFramework.MDEV
    ) -> None:
        import pynvml

        self._real_nvml = pynvml.nvmlLib
        self.root = root
        self.machine = root / "machine"
        self.machine.mkdir(parents=True)
        self.home = self.default_home = Home(root / "home")
        self.home.root.mkdir(mode=0o700)
        self.hook = CallHook()
        self.files = root.with_name(f"{root.name}-files")
        self.files.mkdir(exist_ok=True)
        self._opened: list[GpuHost] = []
        self._last: Snapshot = {}
        (self.machine / "boot_id").write_text("boot-1")
        (self.machine / "namespaces").mkdir()
        (self.machine / "tables").mkdir()
        (self.machine / "services").mkdir()
        self.cluster = self.machine / "kubernetes.json"
        self.release = "1.37.2"
        self.door: Door | None = Door("gpu.example.org", 2222, "ssh-ed25519 AAAAgateway")
        self.units = self.machine / "units"
        self.units.mkdir()
        if gpus:
            SimulatedGpus(self.machine / "gpus", gpus, framework=framework, boot_id=self.boot_id)

    def boot_id(self) -> str:
        return (self.machine / "boot_id").read_text()

    def environment(self) -> Environment:
        """What a new process of the program sees."""
        self._end_orphans()
        self._close_gpus()
        return Environment(
            home=self.home,
            host_locks=self.machine / "locks",
            gpu_ledger=self.gpu_ledger(),
            guest_accounts=self.guest_accounts(),
            runner=cast(Any, self.keygen()),
            disks=Disks(self.machine, self.hook),
            images=lambda _kubernetes: SimulatedImages(self.home.images, self.hook),
            guests=self.guests(),
            choose_hypervisor=self._choose,
            system_hypervisor=self._system,
            accelerate=lambda _wanted: AccelerationDecision(accelerated=False),
            daemon=lambda directory, namespace: SimulatedDaemon(directory, namespace, self.machine, self.hook),
            connect=self._connect,
            host_facts=self._facts,
            supervisor=self.supervisor,
            packet_filter=lambda prefix: self.packet_filter(prefix[-1] if prefix else None),
            gpus=self._gpus,
            units=cast(Any, HookedPort(self._units(), "units", self.hook)),
            upgrade_files=self._upgrade_files,
            door=lambda: self.door,
        )

    def _upgrade_files(self, wants: KubernetesSpec, _progress: Callable[[str, str], None]) -> UpgradeFiles:
        """Of the one release that the sources of this machine have."""
        assert is_asked_for(self.release, wants.version)
        with self.hook.around("upgrade_files"):
            return UpgradeFiles(self.machine, self.release, REPOSITORY, f"{self.release}-0123456789ab")

    def guests(self) -> SimulatedGuests:
        return SimulatedGuests(self)

    def keygen(self) -> KeygenRunner:
        return KeygenRunner(self.hook)

    def _units(self) -> SystemdUnits:
        return SystemdUnits(KeygenRunner(self.hook), self.units, self.machine / "no-systemd")

    # ------------------------------------------------------------ hypervisors
    def hypervisor(self, lab: LabPaths | None = None, *, quiet: bool = False) -> SimulatedHypervisor:
        """The host's own libvirt, or a lab's embedded one; `quiet` for a test's own looks and changes."""
        file = self.machine / "libvirt.json" if lab is None else lab.hypervisor / "libvirt.json"
        return SimulatedHypervisor(file, hook=CallHook() if quiet else self.hook)

    def _facts(self) -> HostFacts:
        """The bridges of networks that run on the host's own libvirt are interfaces of the host, with routes."""
        running = [info for info in self.hypervisor(quiet=True).networks() if info.active and info.bridge]
        return HostFacts(
            64,
            262144,
            200000,
            4000.0,
            networks=tuple(HostNetwork(info.bridge, subnet) for info in running for subnet in info.subnets),
            interfaces=("lo", *(info.bridge for info in running)),
        )

    @property
    def libvirt_down(self) -> Path:
        """While this file is there the host's own libvirt does not answer."""
        return self.machine / "libvirt-down"

    def _choose(self, wanted: str) -> str:
        if wanted == "auto":
            return EMBEDDED if self.libvirt_down.exists() else SYSTEM_URI
        return wanted

    def _system(self, lab: str) -> SystemHypervisor:
        if not self.libvirt_down.exists():
            return SystemHypervisor.ANSWERS
        libvirt = self.hypervisor(quiet=True)
        names = [item.name for item in libvirt.domains()] + [item.name for item in libvirt.networks()]
        there = any(name.startswith(f"{lab}-") for name in names)
        return SystemHypervisor.SILENT if there else SystemHypervisor.EMPTY

    def packet_filter(self, namespace: str | None = None, *, quiet: bool = False) -> SimulatedPacketFilter:
        """That of the host, or of a lab's namespace."""
        file = self.machine / "tables" / (namespace or "host")
        return SimulatedPacketFilter(file, hook=CallHook() if quiet else self.hook)

    def _connect(self, uri: str, prefix: tuple[str, ...]) -> SimulatedHypervisor:
        if uri == SYSTEM_URI:
            if self.libvirt_down.exists():
                raise HypervisorError("Failed to connect socket", where=uri)
            return self.hypervisor()
        directory = Path(uri.removeprefix("embedded:"))
        if not any(file.read_text() == str(directory) for file in (self.machine / "namespaces").glob("*")):
            raise HypervisorError("no such socket", where=uri)
        return self.hypervisor(LabPaths(directory.parent))

    # ------------------------------------------------------------ services
    def supervisor(self, directory: Path, *, quiet: bool = False) -> SimulatedSupervisor:
        """That of a lab, by its directory; `quiet` for a test's own looks."""
        place = hashlib.sha256(os.fsencode(directory.parent.resolve())).hexdigest()[:8]  # a home may have two names
        running = self.machine / "services" / f"{directory.parent.name}-{place}"
        return SimulatedSupervisor(directory, running, hook=CallHook() if quiet else self.hook)

    def _end_orphans(self) -> None:
        """A supervisor whose directory is gone ends by itself, with its services."""
        for running in (self.machine / "services").iterdir():
            mark = running / SUPERVISOR
            if not mark.is_file() or not Path(mark.read_text()).is_dir():
                shutil.rmtree(running)

    # ------------------------------------------------------------ GPUs
    def gpu_ledger(self) -> GpuLedger:
        """That of the host, as it is seen from the home that commands now have."""
        return GpuLedger(self.default_home.gpu_owners, boot_id=self.boot_id, home=self._home_id())

    def guest_accounts(self, home: Home | None = None) -> AccountLedger:
        """Those of the host, as they are seen from a home; by default from the one that commands now have."""
        return HookedAccounts(self.default_home, self.files / "accounts.lock", self.hook, (home or self.home).id)

    def _home_id(self) -> str:
        return "" if self.home == self.default_home else self.home.id

    def _gpus(self, backend: str, paths: LabPaths, devices: Sequence[GpuDeviceSpec] | None, *, dry: bool) -> GpuHost:
        if backend != GpuBackend.SIMULATED:
            if not (self.machine / "gpus").is_dir():  # a machine without GPUs: looking leaves no trace
                return self._assemble(self.files / "no-GPUs", None, self.default_home.gpu_owners, real=True)
            return self._assemble(self.machine / "gpus", None, self.default_home.gpu_owners, real=True)
        gpus = [SimulatedGpu(item.id, item.model, item.pci_address) for item in devices] if devices else None
        directory = paths.gpu
        if dry:
            directory = self.files / "scratch"
            shutil.rmtree(directory, ignore_errors=True)
            if paths.gpu.is_dir():
                shutil.copytree(paths.gpu, directory)
        return self._assemble(directory, gpus, directory / "owners.json", real=False)

    def _assemble(self, directory: Path, gpus: Sequence[SimulatedGpu] | None, ledger: Path, *, real: bool) -> GpuHost:
        framework = VgpuFramework.MDEV if gpus else None
        simulation = SimulatedGpus(directory, gpus, framework=framework, boot_id=self.boot_id)
        self._hook_gpus(simulation)
        simulation.install()
        owners = HookedLedger(ledger, self.hook, self.boot_id, self._home_id() if real else "")
        host = assemble_gpus(simulation.files, simulation.runner, owners, real=real)
        hooked = {
            name: cast(Any, HookedPort(getattr(host, name), name, self.hook))
            for name in ("nvml", "pci", "sriov", "passthrough")
        }
        opened = dataclasses.replace(
            host, vgpus=lambda framework: cast(Any, HookedPort(host.vgpus(framework), "vgpus", self.hook)), **hooked
        )
        self._opened.append(host)
        return opened

    def _hook_gpus(self, simulation: SimulatedGpus) -> None:
        """Inside one adapter call there can be several effects on a GPU: each is a place to be stopped at."""
        change = simulation.store.change

        @contextmanager
        def hooked() -> Iterator[object]:
            with self.hook.around("gpu"), change() as state:
                yield state

        simulation.store.change = hooked  # type: ignore[method-assign,assignment]

    def gpus(self, lab: LabPaths | None = None) -> SimulatedGpus:
        """The GPUs, for a test's own looks and changes."""
        return SimulatedGpus(lab.gpu if lab else self.machine / "gpus", None, boot_id=self.boot_id)

    def opened_gpus(self) -> GpuHost:
        """The GPUs through the product's adapters, unhooked."""
        simulation = self.gpus()
        simulation.install()
        host = assemble_gpus(simulation.files, simulation.runner, self.gpu_ledger(), real=True)
        self._opened.append(host)
        return host

    def _close_gpus(self) -> None:
        for host in self._opened:
            host.nvml.close()
        self._opened.clear()

    def close(self) -> None:
        import pynvml

        self._close_gpus()
        pynvml.nvmlLib = self._real_nvml
        pynvml._nvmlGetFunctionPointer_cache.clear()

    # ------------------------------------------------------------ what happens to a machine
    def reboot(self) -> None:
        """Processes, namespaces and what GPUs were cut into are gone; files and definitions are still there."""
        for file in (*(self.machine / "namespaces").iterdir(), *(self.machine / "tables").iterdir()):
            file.unlink()
        for running in (self.machine / "services").iterdir():
            shutil.rmtree(running)
        number = int(self.boot_id().removeprefix("boot-"))
        (self.machine / "boot_id").write_text(f"boot-{number + 1}")
        self.hypervisor(quiet=True).reboot_host()
        for root in self.home.labs.glob("*"):
            if LabPaths(root).hypervisor.is_dir():
                self.hypervisor(LabPaths(root), quiet=True).reboot_host()

    def seed_foreign(self) -> None:
        """What others have on this machine, with names like those of the lab `demo`."""
        libvirt = self.hypervisor(quiet=True)
        for name in (f"{LAB}-2", f"{LAB}-2-hpc-compute-1", f"{LAB}-hpc", f"{LAB}-hpc-compute-10"):
            libvirt.seed_foreign_domain(name, foreign_uuid(name))
        libvirt.seed_foreign_network(f"{LAB}-2-hpc", foreign_uuid("network"), bridge="virbr-other")
        self.packet_filter(quiet=True).seed_foreign_table(f"hyperscaler_{LAB}-2")
        other = self.home.labs / f"{LAB}-2" / "disks"
        other.mkdir(parents=True)
        (other / "hpc-compute-1.qcow2").write_text("somebody's data")
        if (self.machine / "gpus").is_dir():
            gpus = self.opened_gpus()
            gpus.nvml.set_mig_mode(THIRD, enabled=True)
            profile = next(item for item in gpus.nvml.profiles(THIRD) if item.name == "1g.10gb")
            gpus.nvml.create_instance(THIRD, profile.gi_profile_id, (profile.placements or ())[-1])

    # ------------------------------------------------------------ commands
    def lab_file(self, text: str, name: str = LAB) -> LoadedLab:
        file = self.files / f"{name}.yaml"
        file.write_text(text)
        loaded = load_lab_file(file)
        assert not loaded.report.errors, loaded.report.errors
        return loaded

    def provision(
        self, loaded: LoadedLab, *, stop: StopFlag | None = None, reporter: Reporter | None = None
    ) -> ProvisionResult:
        return provision(self.environment(), loaded, Options(), reporter or SilentReporter(), stop or StopFlag())

    def plan(self, loaded: LoadedLab) -> Plan:
        env = self.environment()
        state, spec = self.state(loaded.spec.name), loaded.spec
        lab = open_to_plan(env, open_record(env.home, spec.name), spec)
        return plan_lab(lab, state, spec, AccelerationDecision(accelerated=False))

    def destroy(self, name: str = LAB, *, stop: StopFlag | None = None, reporter: Reporter | None = None) -> Plan:
        done = destroy(
            self.environment(), name, reporter or SilentReporter(), stop or StopFlag(), confirm=lambda _plan: True
        )
        return done.plan

    def state(self, name: str = LAB) -> State:
        return StateStore(Journal(self.home.lab(name).journal), boot_id="b").state

    def namespace(self, name: str = LAB) -> str:
        return namespace_name(self.home, name)

    def disk_data(self, name: str = LAB) -> dict[str, str]:
        """What is on the lab's disks, by node."""
        return {
            disk.stem: data for disk in sorted(self.home.lab(name).disks.glob("*.qcow2")) if (data := data_of(disk))
        }

    # ------------------------------------------------------------ snapshots
    def save(self) -> Snapshot:
        """Every file and directory: path -> mode and content (None for a directory).

        What is as it was in the snapshot before is the same object: sweeps keep hundreds of them.
        """
        self._end_orphans()
        last = self._last
        found = dict(sorted(_files(str(self.root), "")))
        self._last = {name: kept if (kept := last.get(name)) == fact else fact for name, fact in found.items()}
        return self._last

    def restore(self, snapshot: Snapshot, *, now: Snapshot | None = None) -> None:
        """Bring the machine back to a snapshot; what is as it was is left alone, which is much faster.

        Args:
            now: the machine as it is, if somebody has just looked.
        """
        now = self.save() if now is None else now
        for name in sorted(now, reverse=True):
            if name not in snapshot or (now[name][1] is None) != (snapshot[name][1] is None):
                path = self.root / name
                path.rmdir() if now[name][1] is None else path.unlink()
        for name, (mode, content) in snapshot.items():
            if now.get(name) == (mode, content):
                continue
            path = self.root / name
            if content is None:
                path.mkdir(exist_ok=True)
            else:
                path.unlink(missing_ok=True)  # a new inode: caches must see that it is another file
                path.write_bytes(content)
            path.chmod(mode & 0o7777)


def _files(directory: str, prefix: str) -> Iterator[tuple[str, tuple[int, bytes | None]]]:
    """What is below a directory: links as what they lead to, and without what is gone when it is looked at."""
    with os.scandir(directory) as entries:
        for entry in entries:
            name, mode = prefix + entry.name, entry.stat().st_mode
            if entry.is_dir():
                yield name, (mode, None)
                if not entry.is_symlink():
                    yield from _files(entry.path, f"{name}/")
            else:
                yield name, (mode, _content_of(entry.path))


_BLOCK = 1 << 16


def _content_of(path: str) -> bytes:
    """As `Path.read_bytes`, which asks more of the kernel; a sweep reads a million files, nearly all of them small."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = block = os.read(descriptor, _BLOCK)
        while len(block) == _BLOCK:
            block = os.read(descriptor, _BLOCK)
            content += block
        return content
    finally:
        os.close(descriptor)


def foreign_uuid(name: str) -> UUID:
    return uuid5(NAMESPACE, f"foreign/{name}")


# ---------------------------------------------------------------- comparing
_PASSING = ("at", "run", "sum", "boot")
_DISK_DATA = re.compile(r', "data": "[0-9a-f]+"')


def journal_entries(content: bytes) -> list[object]:
    """What a journal says, without when and by which run."""
    found: list[object] = []
    for line in content.split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            found.append(line)  # torn
            continue
        found.append({key: value for key, value in entry.items() if key not in _PASSING})
    return found


def comparable(snapshot: Snapshot, *, images: bool = True, journal: str = "entries") -> dict[str, str]:
    """A snapshot without what differs from run to run.

    Args:
        images: golden images count; they are shared, so destroy leaves them.
        journal: `entries` compares them, `state` what they amount to, `` nothing.
    """
    facts: dict[str, str] = {}
    for name, (mode, content) in snapshot.items():
        parts = tuple(name.split("/"))
        if parts[-1].endswith((".lock", ".layout")) or name in ("home/labs", "home/hypervisors", "home/audit.jsonl"):
            continue
        if "locks" in parts or "damaged" in name:
            continue
        if not images and parts[:2] == ("home", "images"):
            continue
        if parts[-1] in ("gpu-owners.json", "owners.json") and not json.loads(content or b"")["owners"]:
            continue
        facts[name] = f"{mode:o} {_content(parts, content, journal)}"
    configured = json.loads((snapshot.get("machine/configured.json") or (0, b"{}"))[1] or b"{}")
    kept = {name: role for name, role in configured.items() if any(name.endswith(f"/{path}") for path in snapshot)}
    facts.pop("machine/configured.json", None)
    owners = _owners((snapshot.get("home/guest-accounts.json") or (0, None))[1])
    facts = {name: _without_numbers(text, owners) for name, text in facts.items()}
    return facts | ({"configured": json.dumps(kept, sort_keys=True)} if kept else {})


@lru_cache(maxsize=1000)
def _owners(accounts: bytes | None) -> tuple[tuple[str, str], ...]:
    """(number, whose it is) of the list of accounts; nothing where there is none, or a damaged one."""
    try:
        entries = json.loads(accounts or b"{}").get("owners", [])
        return tuple((str(entry["number"]), f"account of {entry['lab']}/{entry['node']}") for entry in entries)
    except (ValueError, TypeError, KeyError, AttributeError):
        return ()


@lru_cache(maxsize=20000)
def _without_numbers(text: str, owners: tuple[tuple[str, str], ...]) -> str:
    """A fact with owners in place of numbers: guests are defined side by side, and the first to ask gets the first."""
    for number, owner in owners:
        text = text.replace(number, owner)
    return text


@lru_cache(maxsize=20000)
def _content(parts: tuple[str, ...], content: bytes | None, journal: str) -> str:
    """What a file amounts to. The machines of a sweep differ in a few files: the others are read once."""
    if content is None:
        return "directory"
    if "secrets" in parts:
        return f"{len(content)} bytes"
    if "console" in parts:
        return "console"
    if parts[-1] == "journal.jsonl":
        if not journal:
            return "journal"
        return repr(journal_entries(content) if journal == "entries" else _folded(content))
    if parts[-1] == "guest-accounts.json":
        return _accounts(content)
    if parts[-1] == "gpus.json":
        return _gpus(content)
    if parts[-1].endswith(".qcow2"):
        return _DISK_DATA.sub("", content.decode())
    if parts[-1] in ("gpu-owners.json", "owners.json"):
        return json.dumps(json.loads(content)["owners"], sort_keys=True)
    if parts[-1] == "libvirt.json":
        return json.dumps(json.loads(content), sort_keys=True)
    return content.decode()


def _folded(content: bytes) -> object:
    from emulator.apply.journal import decode
    from emulator.apply.state import fold

    state = fold(entry for entry in (decode(line)[0] for line in content.split(b"\n") if line) if entry)
    records = {
        key: (record.resource.to_json(), {**record.handle, "boot": ""}, record.open_action)
        for key, record in sorted(state.resources.items())
    }
    return records, dict(sorted(state.facts.items())), bool(content) and not content.endswith(b"\n")


def _gpus(content: bytes) -> str:
    data = json.loads(content)
    data["driver_loads"] = 0
    for gpu in data["gpus"]:
        if gpu["driver"] == "vfio-pci":
            gpu["override"] = ""  # it says who may take a GPU without a driver; one that is bound needs it no more
        gpu["vgpus"].sort(key=lambda item: str(item["parent"]))
        gpu["instances"].sort(key=lambda item: int(item["start"]))
    return json.dumps(data, sort_keys=True)


def _accounts(content: bytes) -> str:
    try:
        data = json.loads(content)
        owners = sorted(data["owners"], key=lambda entry: (entry["home"], entry["lab"], entry["node"]))
        return json.dumps({"owners": owners, "retired": data["retired"], "whole": is_whole(data)}, sort_keys=True)
    except (ValueError, TypeError, KeyError):
        return content.decode(errors="replace")


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    return {key: (one.get(key), other.get(key)) for key in sorted({*one, *other}) if one.get(key) != other.get(key)}


# ---------------------------------------------------------------- hooks on what is no adapter
@contextmanager
def journal_hooked(hook: CallHook) -> Iterator[None]:
    """Let every append to a journal and every rewriting go through the hook, too."""
    originals = {name: getattr(Journal, name) for name in ("append", "rewrite")}

    def hooked(name: str, journal: Journal, *args: object) -> object:
        with hook.around(f"journal.{name}"):
            return originals[name](journal, *args)

    for name in originals:
        call = partial(hooked, name)
        setattr(Journal, name, lambda journal, *args, call=call: call(journal, *args))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(Journal, name, original)


def lab_text(
    *, hypervisor: str = EMBEDDED, compute: int = 1, memory: int = 1, disk: int = 4, extra: str = "", name: str = LAB
) -> str:
    """A Slurm lab of one controller and `compute` nodes; `extra` belongs below `global:`."""
    gpu = "gpu: {count: 2}" if "gpu_allocation" in extra else "gpu_enabled: false"
    return f"""\
version: "1.0"
metadata: {{name: {name}}}
timeouts: {{boot: 10}}
{f"global: {{{extra}}}" if extra else ""}
clusters:
  hpc:
    controller: {{cpu_cores: 1, memory_gb: 1, disk_gb: 4}}
    compute_nodes: {{count: {compute}, cpu_cores: 1, memory_gb: {memory}, disk_gb: {disk}, {gpu}}}
hypervisor: {{uri: "{hypervisor}"}}
"""


def gpu_section(backend: str = "nvml") -> str:
    """Two GPUs for one node: a slice of the first, and the second as a whole."""
    gpus = ", ".join(
        f'{{id: gpu-{index}, pci_address: "{address}", model: A100-SXM4-80GB, mig_capable: true}}'
        for index, address in enumerate((FIRST, SECOND))
    )
    shares = "mig_slices: {hpc: 1}, whole_gpus: {hpc: 1}"
    return f"gpu_allocation: {{backend: {backend}, strategy: hybrid, devices: [{gpus}], {shares}}}"
