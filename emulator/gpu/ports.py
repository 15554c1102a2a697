"""The host's GPUs as types, and the ports through which they are read and changed.

GPUs are always addressed by PCI address (`0000:41:00.0`): the index changes when a GPU is lost, and a handle does not
survive a reset. Slices are addressed by (profile, start), because the id of a GPU instance encodes its place on the die
and is reused.

Adapters of these protocols live in `adapters/`; the simulated ones differ only in what lies underneath them
(the library under pynvml, the files of sysfs).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Protocol
from uuid import UUID

from emulator.gpu.model import GpuInstance, MigProfile, Placement


class VgpuFramework(StrEnum):
    """How the host's kernel offers vGPUs. Detected by files, never by versions."""

    NONE = "none"
    MDEV = "mdev"
    VENDOR_VFIO = "vendor_vfio"


class VirtualizationMode(IntEnum):
    """`nvmlGpuVirtualizationMode_t` (nvml.h)."""

    NONE = 0
    PASSTHROUGH = 1
    VGPU_GUEST = 2
    HOST_VGPU = 3
    HOST_VSGA = 4


@dataclass(frozen=True, slots=True)
class MigModeState:
    """MIG mode now and after the next reset. If they differ, the GPU waits for a reset."""

    current: bool
    pending: bool

    @property
    def waits_for_reset(self) -> bool:
        return self.current != self.pending


class MigActivation(StrEnum):
    """Result of setting the MIG mode. The call itself succeeds in all three cases."""

    ACTIVE = "active"
    IN_USE = "in_use"
    RESET_REQUIRED = "reset_required"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that uses a GPU. `memory_mib` is None if the driver does not report it."""

    pid: int
    name: str
    memory_mib: int | None = None
    gpu_instance_id: int | None = None


@dataclass(frozen=True, slots=True)
class Utilisation:
    """Per cent over the last sampling period, and memory in MiB. None if NVML does not report it (MIG mode)."""

    gpu_percent: int | None
    memory_percent: int | None
    memory_used_mib: int
    memory_total_mib: int


@dataclass(frozen=True, slots=True)
class VgpuTypeInfo:
    """A vGPU type of a GPU. `gi_profile_id` None means time-sliced; `name` is the last word only (A100D-1-10C)."""

    id: int
    name: str
    gi_profile_id: int | None
    max_instances: int
    framebuffer_mib: int | None = None


@dataclass(frozen=True, slots=True)
class NvmlGpu:
    """One physical GPU as NVML reports it. `mig` None: the GPU has no MIG.

    `profiles` is empty if the driver does not list them while MIG is off (580.159.04 does on an H100). `architecture`
    is in lower case (`ampere`), empty if the driver does not report it. `busy` instances contain compute instances.
    """

    index: int
    uuid: str
    name: str
    pci_address: str
    pci_id: str
    memory_total_mib: int
    memory_used_mib: int
    minor_number: int | None
    mig: MigModeState | None
    profiles: tuple[MigProfile, ...]
    instances: tuple[GpuInstance, ...]
    virtualization: VirtualizationMode | None
    host_vgpu_sriov: bool
    processes: tuple[GpuProcess, ...]
    vgpu_types: tuple[VgpuTypeInfo, ...] = ()
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class NvmlFault:
    """A GPU that NVML counts but cannot read: the reason and the remedy.

    `pci_address` is None if the GPU did not even report its address.
    """

    pci_address: str | None
    reason: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class NvmlSurvey:
    """One look at all GPUs: those that could be read, and the faults of the others."""

    gpus: tuple[NvmlGpu, ...]
    faults: tuple[NvmlFault, ...] = ()


class NvmlGpus(Protocol):
    """NVML. Every call may raise a `GpuError` that names the GPU and the remedy."""

    def released(self) -> AbstractContextManager[None]:
        """While the block runs, this process has no GPU open, which the driver requires before it releases one.

        Calls of other threads wait until the block ends. Later calls fetch new handles.
        """
        ...

    def driver_version(self) -> str: ...
    def survey(self) -> NvmlSurvey:
        """All physical GPUs, with the reasons for those that could not be read."""
        ...

    def gpus(self) -> tuple[NvmlGpu, ...]:
        """All physical GPUs that could be read, without SR-IOV virtual functions (mig-parted#14)."""
        ...

    def mig_mode(self, pci_address: str) -> MigModeState | None: ...
    def set_mig_mode(self, pci_address: str, *, enabled: bool) -> MigActivation:
        """Set the mode. May reset or re-bind the GPU; does nothing if the mode is set already."""
        ...

    def profiles(self, pci_address: str) -> tuple[MigProfile, ...]: ...
    def instances(self, pci_address: str) -> tuple[GpuInstance, ...]: ...
    def remaining_capacity(self, pci_address: str, profile_id: int) -> int: ...
    def create_instance(self, pci_address: str, profile_id: int, placement: Placement) -> GpuInstance:
        """Create a slice at exactly this placement. An equal one that exists already is an error: look first."""
        ...

    def destroy_instance(self, pci_address: str, profile_id: int, start: int) -> bool:
        """Destroy the instance of that profile and start with its compute instances; False if there was none."""
        ...

    def processes(self, pci_address: str) -> tuple[GpuProcess, ...]: ...
    def utilisation(self, pci_address: str) -> Utilisation: ...
    def instance_utilisation(self, pci_address: str) -> Mapping[int, Utilisation]:
        """Memory of the slices by GPU instance id, only for those with a compute instance on this host."""
        ...

    def vgpu_types(self, pci_address: str) -> tuple[VgpuTypeInfo, ...]: ...
    def close(self) -> None: ...


# ---------------------------------------------------------------- files of the kernel
class FileAccess(Protocol):
    """A view of `/sys`, `/proc` and `/dev`. Paths are absolute (`/sys/bus/...`); failures are `OSError`s with errno."""

    def read(self, path: str) -> str: ...
    def write(self, path: str, text: str, *, timeout: float = 10.0) -> None:
        """Write `text` in one write(2). A write that takes longer than `timeout` seconds raises `GpuTimeoutError`
        and is abandoned: sysfs writes can block for ever in the kernel."""
        ...

    def listdir(self, path: str) -> tuple[str, ...]:
        """Sorted names; an absent directory is `FileNotFoundError`."""
        ...

    def readlink(self, path: str) -> str: ...
    def exists(self, path: str) -> bool: ...
    def probe_open(self, path: str) -> None:
        """Open a device node for reading and writing and close it again; EBUSY means that it is in use."""
        ...


# ---------------------------------------------------------------- PCI
@dataclass(frozen=True, slots=True)
class PciDevice:
    """A PCI function from sysfs. `vendor` and `device` have four hex digits, `class_code` six.

    `virtfns` are the addresses of its VFs; `physfn` is the PF of a VF. `driver_override` is None when unset.
    `boot_vga` says whether the firmware's console is on it; None for what is no display controller.
    """

    address: str
    vendor: str
    device: str
    class_code: str
    driver: str | None = None
    driver_override: str | None = None
    iommu_group: int | None = None
    numvfs: int = 0
    totalvfs: int = 0
    virtfns: tuple[str, ...] = ()
    physfn: str | None = None
    boot_vga: bool | None = None
    network_interfaces: tuple[str, ...] = ()
    block_devices: tuple[str, ...] = ()

    @property
    def is_bridge(self) -> bool:
        """Whether it is a PCI-to-PCI bridge (class 0604). Other devices of class 06 are endpoints: an NVSwitch (0680)
        and a host bridge (0600) have drivers that do DMA. The kernel, too, exempts bridges alone (vfio.rst)."""
        return self.class_code.startswith("0604")

    @property
    def slot(self) -> str:
        """What the functions of one device share: `0000:41:00`."""
        return self.address.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class DeviceHolder:
    """A process that has a device node open, seen through `/proc/<pid>/fd`."""

    pid: int
    name: str
    path: str


def others(holders: Iterable[DeviceHolder]) -> tuple[DeviceHolder, ...]:
    """The holders without this process, whose NVML has every GPU open."""
    return tuple(holder for holder in holders if holder.pid != os.getpid())


class PciBus(Protocol):
    """Read-only facts about PCI functions."""

    def devices(self, *, vendor: str | None = None) -> tuple[PciDevice, ...]: ...
    def device(self, address: str) -> PciDevice | None: ...
    def iommu_group(self, number: int) -> tuple[PciDevice, ...]: ...
    def holders(self, *paths: str) -> tuple[DeviceHolder, ...]:
        """Processes that have one of `paths` open (`/dev/nvidia0`, `/dev/vfio/12`)."""
        ...

    def framework(self, address: str) -> VgpuFramework:
        """The framework that the kernel offers for this physical function or its VFs."""
        ...


class SriovControl(Protocol):
    """Virtual functions of NVIDIA GPUs, through the vendor's `sriov-manage`."""

    def enable(self, address: str) -> tuple[str, ...]:
        """Enable the VFs of a PF and return their addresses. This erases GPU instances. If the VFs exist already,
        only their addresses are returned."""
        ...

    def disable(self, address: str) -> None: ...


# ---------------------------------------------------------------- vGPUs
@dataclass(frozen=True, slots=True)
class VgpuRequest:
    """A vGPU to create on the parent (a free VF; the PF on GPUs without SR-IOV). Only mdev uses `uuid`."""

    parent: str
    type_name: str
    uuid: UUID


@dataclass(frozen=True, slots=True)
class VgpuDevice:
    """An existing vGPU. `uuid` is None in the vendor VFIO framework, where the VF itself is the device."""

    framework: VgpuFramework
    parent: str
    type_id: int
    type_name: str
    uuid: UUID | None = None


@dataclass(frozen=True, slots=True)
class VgpuParent:
    """A function that can carry vGPUs: how many could be created on it now, by type name, and those on it."""

    address: str
    creatable: Mapping[str, int] = field(default_factory=dict)
    devices: tuple[VgpuDevice, ...] = ()


class VgpuHost(Protocol):
    """One vGPU framework. `create` and `remove` verify their effect by looking again."""

    @property
    def framework(self) -> VgpuFramework: ...
    def parents(self, pf_address: str) -> tuple[VgpuParent, ...]:
        """The functions of a GPU that carry vGPUs, in address order; empty before the VFs are on."""
        ...

    def devices(self) -> tuple[VgpuDevice, ...]:
        """All vGPUs on the host, ours or not."""
        ...

    def create(self, request: VgpuRequest) -> VgpuDevice: ...
    def remove(self, device: VgpuDevice) -> bool:
        """Remove the vGPU; False if there was none. One that a running domain uses raises `GpuBusyError`."""
        ...


class PassthroughControl(Protocol):
    """Whole GPUs passed to guests through vfio-pci."""

    def endpoints(self, address: str, *, group_gpus: Collection[str] = ()) -> tuple[str, ...]:
        """The functions that must go to the guest together; raises a GpuError if the GPU cannot be passed through.

        `group_gpus` are other GPUs of the same IOMMU group that go to the same guest.
        """
        ...

    def bind(self, address: str, *, group_gpus: Collection[str] = ()) -> tuple[str, ...]:
        """Bind the GPU and the other functions of its slot to vfio-pci and return them; undone on failure."""
        ...

    def release(self, address: str, *, driver: str = "nvidia") -> None:
        """Return the endpoints to the host: the GPU to `driver` (empty: none), its other functions to the drivers
        that the kernel chooses."""
        ...
