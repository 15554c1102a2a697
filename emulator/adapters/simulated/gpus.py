"""A simulated host's GPUs: the library under pynvml, the kernel's files, and the vendor's script.

gpus = SimulatedGpus(directory, [SimulatedGpu("gpu-0", "A100-SXM4-80GB", "0000:41:00.0")])
gpus.install()                      # pynvml now talks to the simulated library
nvml, files = NvmlGpus(), gpus.files
sriov = SriovManage(files, gpus.runner)
"""

from __future__ import annotations

import os
import shlex
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emulator.adapters.nvidia.pci_sysfs import normal_address, slot
from emulator.adapters.simulated.nvml import engine, engine_vgpu, library
from emulator.adapters.simulated.nvml.store import GpuStore, SimFunction, SimGpu, SimState
from emulator.adapters.simulated.sysfs import tree
from emulator.adapters.simulated.sysfs.acting_files import SimulatedFiles
from emulator.core.errors import CommandError, ConfigError
from emulator.core.ids import NAMESPACE
from emulator.core.ports import Completed
from emulator.gpu.catalog import close_names, find_gpu
from emulator.gpu.model import GpuModel
from emulator.gpu.ports import VgpuFramework

# GPUs with a display output also have an audio function; data-centre GPUs have none.
_WITH_AUDIO = ("geforce-", "quadro-", "rtx-")


@dataclass(frozen=True, slots=True)
class SimulatedGpu:
    """A GPU to simulate: its id in the lab file, a name that the catalogue knows, a PCI address."""

    id: str
    model: str
    pci_address: str


def host_boot_id() -> str:
    """The kernel's id of this boot: simulated GPUs lose the same state at a reboot of the host as real ones."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


class SimulatedGpus:
    """Simulated GPUs whose state lives in `directory`.

    Args:
        directory: made on the first change, 0700; several processes may share it.
        gpus: all GPUs. Those already in the state keep their slices; others in the state are removed. None leaves the
            state alone.
        framework: how the kernel offers vGPUs.
        root: whether callers count as root; None means the real user, who has to be root for real GPUs.
        boot_id: returns the id of the present boot; a changed id is a reboot.

    Raises:
        ConfigError: a model is not in the catalogue, or an address occurs twice.
    """

    def __init__(
        self,
        directory: Path,
        gpus: Iterable[SimulatedGpu] | None = None,
        *,
        framework: VgpuFramework | None = None,
        root: bool | None = True,
        boot_id: Callable[[], str] = host_boot_id,
    ) -> None:
        self.store = GpuStore(directory)
        self._root = os.geteuid() == 0 if root is None else root
        self._boot_id = boot_id
        self._declare(None if gpus is None else _resolved(gpus), framework)
        self.library = library.SimulatedNvmlLibrary(self.store, root=self._root)
        self.files = SimulatedFiles(tree.Tree(self.store, self.library.is_open))
        self.runner = SimulatedSriovManage(self.store, self.library.is_open)

    def install(self) -> Callable[[], None]:
        """Install the library under pynvml; the returned function removes it."""
        return library.install(self.library)

    # ------------------------------------------------------------ what happens to hardware
    def reboot(self) -> None:
        """Lose the state that a reboot of the host loses."""
        with self.store.change() as state:
            engine.reboot(state, self._boot_id())

    def reload_driver(self) -> None:
        """Unload and load the driver."""
        with self.store.change() as state:
            engine.reload_driver(state)

    def reset_gpu(self, pci_address: str) -> None:
        """`nvidia-smi --gpu-reset`."""
        with self.store.change() as state:
            engine.reset(gpu_at(state, pci_address))

    # ------------------------------------------------------------ set-up
    def _declare(self, gpus: list[tuple[SimulatedGpu, GpuModel]] | None, framework: VgpuFramework | None) -> None:
        boot = self._boot_id()
        if _as_declared(self.store.look(), gpus, framework, boot):
            return
        with self.store.change() as state:
            if framework is not None:
                state.framework = framework.value
            if gpus is not None:
                _set_gpus(state, gpus)
            if state.boot_id and state.boot_id != boot:
                engine.reboot(state, boot)
            state.boot_id = boot


def gpu_at(state: SimState, pci_address: str) -> SimGpu:
    """The GPU at a PCI address, for tests and simulated faults."""
    return next(item for item in state.gpus if item.pci_address == normal_address(pci_address))


def _resolved(gpus: Iterable[SimulatedGpu]) -> list[tuple[SimulatedGpu, GpuModel]]:
    found: dict[str, tuple[SimulatedGpu, GpuModel]] = {}
    for item in gpus:
        model = find_gpu(item.model)
        if model is None:
            near = ", ".join(close_names(item.model))
            raise ConfigError(
                f"no GPU {item.model!r} can be simulated" + (f"; did you mean {near}?" if near else ""),
                where=f"gpu_allocation.devices[{item.id}].model",
                fix="the known GPUs are the files in config/gpus",
            )
        address = normal_address(item.pci_address)
        if address in found:
            raise ConfigError(f"two GPUs at {address}", where=f"gpu_allocation.devices[{item.id}].pci_address")
        found[address] = (SimulatedGpu(item.id, item.model, address), model)
    return list(found.values())


def _as_declared(
    state: SimState,
    gpus: list[tuple[SimulatedGpu, GpuModel]] | None,
    framework: VgpuFramework | None,
    boot: str,
) -> bool:
    if state.boot_id != boot or (framework is not None and state.framework != framework):
        return False
    if gpus is None:
        return True
    have = [(item.id, item.model, item.pci_address) for item in state.gpus]
    return have == [(item.id, model.id, item.pci_address) for item, model in gpus]


def _set_gpus(state: SimState, gpus: list[tuple[SimulatedGpu, GpuModel]]) -> None:
    before = {(item.model, item.pci_address): item for item in state.gpus}
    taken = {item.minor for item in before.values()}
    after: list[SimGpu] = []
    for item, model in gpus:
        known = before.get((model.id, item.pci_address))
        if known is not None:
            known.id = item.id
            after.append(known)
            continue
        minor = next(number for number in range(256) if number not in taken)
        taken.add(minor)
        name = f"GPU-{uuid.uuid5(NAMESPACE, f'simulated/{model.id}/{item.pci_address}')}"
        after.append(SimGpu(item.id, model.id, item.pci_address, name, minor, group=10 + minor))
    gone = {slot(item.pci_address) for item in state.gpus} - {slot(item.pci_address) for item in after}
    state.gpus = after
    kept = [item for item in state.functions if slot(item.address) not in gone]
    state.functions = _with_audio(kept, after)


def _with_audio(kept: list[SimFunction], gpus: list[SimGpu]) -> list[SimFunction]:
    """The given functions plus the audio functions of GPUs that have one."""
    have = {item.address for item in kept}
    audio = [
        SimFunction(f"{slot(gpu.pci_address)}.1", "10de", "10f0", "040300", gpu.group, "snd_hda_intel")
        for gpu in gpus
        if gpu.model.startswith(_WITH_AUDIO) and f"{slot(gpu.pci_address)}.1" not in have
    ]
    return kept + audio


class SimulatedSriovManage:
    """`ProcessRunner` that knows one command: the vendor's `sriov-manage`."""

    def __init__(self, store: GpuStore, opened: Callable[[], bool]) -> None:
        self._store = store
        self._opened = opened

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        timeout: float,  # noqa: ARG002 - it is done at once
        check: bool = True,
        env: Mapping[str, str] | None = None,  # noqa: ARG002
        stdin: str | None = None,  # noqa: ARG002
        cwd: Path | None = None,  # noqa: ARG002
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        words = tuple(str(word) for word in argv)
        if len(words) != 3 or not words[0].endswith("/sriov-manage") or words[1] not in ("-e", "-d"):
            raise CommandError("a simulated host runs only sriov-manage", where=shlex.join(words))
        with self._store.change() as state:
            result = engine_vgpu.sriov_manage(state, words[2], enable=words[1] == "-e", opened=self._opened())
        if on_line is not None and result.text:
            on_line(result.text)
        if check and result.status:
            raise CommandError(f"exit status {result.status}: {result.text}", where=shlex.join(words))
        return Completed(words, result.status, result.text, "")
