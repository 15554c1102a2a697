"""GPUs: the driver's library and the kernel's files, or both simulated. The only place that knows the difference."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from emulator.adapters.nvidia.nvml import NvmlGpus
from emulator.adapters.nvidia.passthrough import VfioPassthrough
from emulator.adapters.nvidia.pci_sysfs import SysfsPci
from emulator.adapters.nvidia.sriov import SriovManage
from emulator.adapters.nvidia.vgpu_mdev import MdevHost
from emulator.adapters.nvidia.vgpu_vfio import VendorVfioHost
from emulator.adapters.system.host_files import HostFiles
from emulator.apply.gpu_ownership import GpuLedger
from emulator.apply.handlers.gpu.host import GpuHost
from emulator.core.fs import left_by_the_dead
from emulator.core.ports import ProcessRunner
from emulator.gpu.ports import FileAccess, VgpuFramework, VgpuHost
from emulator.labfile.model import GpuDeviceSpec


def real_gpus(runner: ProcessRunner, ledger: GpuLedger) -> GpuHost:
    """The host's own GPUs."""
    return assemble_gpus(HostFiles(), runner, ledger, real=True)


def simulated_gpus(directory: Path, devices: Sequence[GpuDeviceSpec] | None) -> GpuHost:
    """Simulated GPUs whose state lives in `directory`; `devices` None leaves the GPUs as they are."""
    from emulator.adapters.simulated.gpus import SimulatedGpu, SimulatedGpus

    gpus = [SimulatedGpu(item.id, item.model, item.pci_address) for item in devices] if devices else None
    simulation = SimulatedGpus(directory, gpus, framework=VgpuFramework.MDEV if gpus else None)
    simulation.install()
    return assemble_gpus(simulation.files, simulation.runner, GpuLedger(directory / "owners.json"), real=False)


_SCRATCH = "hyperscaler-gpu-"


def scratch_copy(gpus: Path) -> Path:
    """A copy of simulated GPUs to plan on, which goes when this process ends; empty when there are none.

    What processes have left that were killed is removed.
    """
    for old in left_by_the_dead(Path(tempfile.gettempdir()), _SCRATCH, "-"):
        with suppress(FileNotFoundError):  # others plan and tidy up at the same time
            if old.lstat().st_uid == os.geteuid():
                shutil.rmtree(old, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    if gpus.is_dir():
        # Somebody may be carving: files are replaced whole, by others that are there for a moment.
        shutil.copytree(gpus, scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.new", "*.lock"))
    return scratch


def assemble_gpus(files: FileAccess, runner: ProcessRunner, ledger: GpuLedger, *, real: bool) -> GpuHost:
    """The adapters over one view of the kernel's files; NVML is whatever lies under pynvml."""
    nvml = NvmlGpus()

    def type_names(pci_address: str) -> Mapping[int, str]:
        return {item.id: item.name for item in nvml.vgpu_types(pci_address)}

    def vgpus(framework: VgpuFramework) -> VgpuHost:
        return MdevHost(files) if framework is VgpuFramework.MDEV else VendorVfioHost(files, type_names)

    return GpuHost(
        nvml=nvml,
        pci=SysfsPci(files),
        sriov=SriovManage(files, runner),
        vgpus=vgpus,
        passthrough=VfioPassthrough(files),
        ledger=ledger,
        real=real,
    )
