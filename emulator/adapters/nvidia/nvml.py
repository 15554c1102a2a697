"""GPUs through nvidia-ml-py. The same code runs on real GPUs and on the simulated library.

Each call fetches a new handle: a change of MIG mode may reset or re-bind the GPU and invalidate old handles. pynvml is
imported on first use, because validation and planning work without it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import byref
from typing import TYPE_CHECKING

from emulator.adapters.nvidia import nvml_errors
from emulator.adapters.nvidia.nvml_instances import (
    Device,
    destroy_instance,
    get_instances,
    get_profiles,
    instance_of,
)
from emulator.adapters.nvidia.pci_sysfs import normal_address
from emulator.core.errors import GpuError, HyperscalerError
from emulator.core.ports import log
from emulator.gpu.errors import GpuNotFoundError, GpuNotSupportedError
from emulator.gpu.model import GpuInstance, MigProfile, Placement
from emulator.gpu.ports import (
    GpuProcess,
    MigActivation,
    MigModeState,
    NvmlFault,
    NvmlGpu,
    NvmlSurvey,
    Utilisation,
    VgpuTypeInfo,
    VirtualizationMode,
)

if TYPE_CHECKING:
    from types import ModuleType

_MIB = 1024 * 1024
_NO_GPU_INSTANCE = 0xFFFFFFFF
# NVML_DEVICE_ARCH_* of nvml.h.
_ARCHITECTURES = {2: "kepler", 3: "maxwell", 4: "pascal", 5: "volta", 6: "turing", 7: "ampere", 8: "ada"}
_ARCHITECTURES |= {9: "hopper", 10: "blackwell"}


class NvmlGpus:
    """`emulator.gpu.ports.NvmlGpus` over nvidia-ml-py.

    Raises:
        HostNotFitError: from the first call, if there is no driver.
    """

    def __init__(self) -> None:
        self._module: ModuleType | None = None
        # Held during each call, so that `released` neither interrupts one nor lets one open the GPUs again.
        self._lock = threading.RLock()

    # ------------------------------------------------------------ session
    def _nvml(self) -> ModuleType:
        with self._lock:
            if self._module is None:
                import pynvml

                try:
                    pynvml.nvmlInit()
                except pynvml.NVMLError as error:
                    raise nvml_errors.no_driver(error.value) from error
                self._module = pynvml
            return self._module

    def close(self) -> None:
        with self._lock:
            if self._module is not None:
                module, self._module = self._module, None
                try:
                    module.nvmlShutdown()
                except module.NVMLError as error:
                    log.debug("closing NVML: %s", error)

    @contextmanager
    def released(self) -> Iterator[None]:
        """See `emulator.gpu.ports.NvmlGpus.released`: an open NVML holds /dev/nvidia<minor> of every GPU."""
        with self._lock:
            self.close()
            yield

    @contextmanager
    def _calling(self, doing: str, where: str = "") -> Iterator[ModuleType]:
        with self._lock:
            nvml = self._nvml()
            try:
                yield nvml
            except nvml.NVMLError as error:
                raise nvml_errors.translate(error.value, doing, where) from error
            except nvml.NVMLLibraryMismatchError as error:  # a versioned function is missing; not an NVMLError
                raise nvml_errors.translate(nvml.NVML_ERROR_FUNCTION_NOT_FOUND, doing, where) from error

    @contextmanager
    def _on(self, address: str, doing: str) -> Iterator[Device]:
        address = normal_address(address)
        with self._calling(doing, f"gpu {address}") as nvml:
            try:
                handle = nvml.nvmlDeviceGetHandleByPciBusId(address)
            except nvml.NVMLError_NotFound as error:
                raise GpuNotFoundError(
                    f"{doing}: NVML knows no GPU at this address",
                    where=f"gpu {address}",
                    fix="is it bound to the nvidia driver? compare with: hyperscaler gpu discover",
                ) from error
            yield Device(nvml, handle)

    # ------------------------------------------------------------ reading
    def driver_version(self) -> str:
        with self._calling("asking for the driver's version") as nvml:
            return str(nvml.nvmlSystemGetDriverVersion())

    def survey(self) -> NvmlSurvey:
        with self._calling("counting the GPUs") as nvml:
            count = int(nvml.nvmlDeviceGetCount())
        read = [self._read(index) for index in range(count)]
        return NvmlSurvey(
            tuple(item for item in read if isinstance(item, NvmlGpu)),
            tuple(item for item in read if isinstance(item, NvmlFault)),
        )

    def gpus(self) -> tuple[NvmlGpu, ...]:
        return self.survey().gpus

    def _read(self, index: int) -> NvmlGpu | NvmlFault:
        """One GPU. Any call may fail for it with any code, which must not hide the other GPUs."""
        address: str | None = None
        try:
            with self._calling("reading the GPU", f"gpu index {index}") as nvml:
                device = Device(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
                pci = nvml.nvmlDeviceGetPciInfo(device.handle)
                address = normal_address(str(pci.busId))
                return self._gpu(device, index, address, int(pci.pciDeviceId))
        except HyperscalerError as error:
            return NvmlFault(address, error.what, error.fix)

    def _gpu(self, device: Device, index: int, address: str, pci_id: int) -> NvmlGpu:
        nvml, handle = device.nvml, device.handle
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        mig = _mig_mode(device)
        profiles: tuple[MigProfile, ...] = ()
        instances: tuple[GpuInstance, ...] = ()
        if mig is not None:
            # Drivers that list no profiles while MIG is off answer NOT_SUPPORTED to each index.
            profiles = get_profiles(device)
        if mig is not None and mig.current:
            try:
                instances = get_instances(device, profiles)
            except nvml.NVMLError_NoPermission:
                log.warning("GPU instances of %s cannot be listed without root", address)
        virtualization = device.optional(nvml.nvmlDeviceGetVirtualizationMode)
        return NvmlGpu(
            index=index,
            uuid=str(nvml.nvmlDeviceGetUUID(handle)),
            name=str(nvml.nvmlDeviceGetName(handle)),
            pci_address=address,
            pci_id=f"{pci_id & 0xFFFF:04x}:{pci_id >> 16:04x}",
            memory_total_mib=memory.total // _MIB,
            memory_used_mib=memory.used // _MIB,
            minor_number=device.optional(nvml.nvmlDeviceGetMinorNumber),
            mig=mig,
            profiles=profiles,
            instances=instances,
            virtualization=_known_mode(virtualization),
            host_vgpu_sriov=device.optional(nvml.nvmlDeviceGetHostVgpuMode) == 1,
            processes=_processes(device),
            vgpu_types=_vgpu_types(device),
            architecture=_ARCHITECTURES.get(device.optional(nvml.nvmlDeviceGetArchitecture) or 0, ""),
        )

    def mig_mode(self, pci_address: str) -> MigModeState | None:
        with self._on(pci_address, "reading the MIG mode") as device:
            return _mig_mode(device)

    def profiles(self, pci_address: str) -> tuple[MigProfile, ...]:
        with self._on(pci_address, "listing MIG profiles") as device:
            return get_profiles(device)

    def instances(self, pci_address: str) -> tuple[GpuInstance, ...]:
        with self._on(pci_address, "listing GPU instances") as device:
            return get_instances(device, get_profiles(device, with_placements=False))

    def remaining_capacity(self, pci_address: str, profile_id: int) -> int:
        with self._on(pci_address, f"asking what is free for profile {profile_id}") as device:
            return int(device.nvml.nvmlDeviceGetGpuInstanceRemainingCapacity(device.handle, profile_id))

    def processes(self, pci_address: str) -> tuple[GpuProcess, ...]:
        with self._on(pci_address, "listing processes") as device:
            return _processes(device)

    def utilisation(self, pci_address: str) -> Utilisation:
        with self._on(pci_address, "reading the utilisation") as device:
            memory = device.nvml.nvmlDeviceGetMemoryInfo(device.handle)
            rates = device.optional(device.nvml.nvmlDeviceGetUtilizationRates)
            return Utilisation(
                gpu_percent=None if rates is None else int(rates.gpu),
                memory_percent=None if rates is None else int(rates.memory),
                memory_used_mib=memory.used // _MIB,
                memory_total_mib=memory.total // _MIB,
            )

    def instance_utilisation(self, pci_address: str) -> dict[int, Utilisation]:
        with self._on(pci_address, "reading the utilisation of the slices") as device:
            return _instance_utilisation(device)

    def vgpu_types(self, pci_address: str) -> tuple[VgpuTypeInfo, ...]:
        with self._on(pci_address, "listing vGPU types") as device:
            return _vgpu_types(device)

    def vgpu_type_names(self, pci_address: str) -> Mapping[int, str]:
        """Names of the vGPU types by their numbers, for a driver whose sysfs has numbers only."""
        return {item.id: item.name for item in self.vgpu_types(pci_address)}

    # ------------------------------------------------------------ changing
    def set_mig_mode(self, pci_address: str, *, enabled: bool) -> MigActivation:
        with self._on(pci_address, f"turning MIG mode {'on' if enabled else 'off'}") as device:
            nvml = device.nvml
            mode = _mig_mode(device)
            if mode is None:
                raise GpuNotSupportedError(
                    "this GPU has no MIG", where=f"gpu {pci_address}", fix="use the GPU as a whole"
                )
            # Read first: on some drivers enabling an enabled mode fails, and any call may reset the GPU.
            if mode.current == enabled and not mode.waits_for_reset:
                return MigActivation.ACTIVE
            if device.optional(nvml.nvmlDeviceGetVirtualizationMode) == VirtualizationMode.PASSTHROUGH:
                log.warning(
                    "gpu %s is passed through to this guest: the hypervisor may block the reset that the MIG mode "
                    "needs, and the GPU then waits for one until the guest restarts",
                    pci_address,
                )
            # The call raises only if it fails itself; its return value says whether the mode is in force.
            status = int(nvml.nvmlDeviceSetMigMode(device.handle, int(enabled)))
            if status == nvml.NVML_SUCCESS:
                return MigActivation.ACTIVE
            if status == nvml.NVML_ERROR_IN_USE:
                return MigActivation.IN_USE
            if status == nvml.NVML_ERROR_RESET_REQUIRED:
                return MigActivation.RESET_REQUIRED
            raise nvml.NVMLError(status)

    def create_instance(self, pci_address: str, profile_id: int, placement: Placement) -> GpuInstance:
        doing = f"creating a GPU instance of profile {profile_id} at memory slice {placement.start}"
        with self._on(pci_address, doing) as device:
            nvml = device.nvml
            place = nvml.c_nvmlGpuInstancePlacement_t(placement.start, placement.size)
            made = nvml.nvmlDeviceCreateGpuInstanceWithPlacement(device.handle, profile_id, byref(place))
            found = instance_of(nvml, made, {})
            if found.placement != placement:
                raise GpuError(
                    f"{doing}: the driver put it at memory slice {found.placement.start} instead",
                    where=f"gpu {pci_address}",
                    fix="destroy it and report the driver's version",
                )
            names = {item.gi_profile_id: item.name for item in get_profiles(device, with_placements=False)}
            return GpuInstance(names.get(profile_id, str(profile_id)), placement, found.gi_id)

    def destroy_instance(self, pci_address: str, profile_id: int, start: int) -> bool:
        doing = f"destroying the GPU instance of profile {profile_id} at memory slice {start}"
        with self._on(pci_address, doing) as device:
            return destroy_instance(device, profile_id, start, _processes(device), f"gpu {pci_address}")


def _mig_mode(device: Device) -> MigModeState | None:
    try:
        current, pending = device.nvml.nvmlDeviceGetMigMode(device.handle)
    except (device.nvml.NVMLError_NotSupported, device.nvml.NVMLError_FunctionNotFound):
        return None
    return MigModeState(current=bool(current), pending=bool(pending))


def _known_mode(value: int | None) -> VirtualizationMode | None:
    return VirtualizationMode(value) if value in set(VirtualizationMode) else None


def _processes(device: Device) -> tuple[GpuProcess, ...]:
    nvml = device.nvml
    found: dict[int, GpuProcess] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        for item in device.optional(ask) or ():
            try:
                name = str(nvml.nvmlSystemGetProcessName(item.pid))
            except nvml.NVMLError:  # it has ended meanwhile, or belongs to another user
                name = "?"
            gi = item.gpuInstanceId
            found[item.pid] = GpuProcess(
                pid=item.pid,
                name=name,
                memory_mib=None if item.usedGpuMemory is None else item.usedGpuMemory // _MIB,
                gpu_instance_id=None if gi in (None, _NO_GPU_INSTANCE) else gi,
            )
    return tuple(found[pid] for pid in sorted(found))


def _instance_utilisation(device: Device) -> dict[int, Utilisation]:
    """Memory by GPU instance, read from its MIG devices, of which there is one per compute instance."""
    nvml = device.nvml
    found: dict[int, Utilisation] = {}
    for index in range(device.optional(nvml.nvmlDeviceGetMaxMigDeviceCount) or 0):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(device.handle, index)
        except nvml.NVMLError_NotFound:
            continue
        except nvml.NVMLError_NotSupported:  # MIG mode is off
            break
        memory = nvml.nvmlDeviceGetMemoryInfo(part)
        found[int(nvml.nvmlDeviceGetGpuInstanceId(part))] = Utilisation(
            gpu_percent=None,
            memory_percent=None,
            memory_used_mib=memory.used // _MIB,
            memory_total_mib=memory.total // _MIB,
        )
    return found


def _vgpu_types(device: Device) -> tuple[VgpuTypeInfo, ...]:
    nvml = device.nvml
    found = []
    for number in device.optional(nvml.nvmlDeviceGetSupportedVgpus) or ():
        profile = nvml.nvmlVgpuTypeGetGpuInstanceProfileId(number)
        found.append(
            VgpuTypeInfo(
                id=number,
                name=str(nvml.nvmlVgpuTypeGetName(number)).split()[-1],
                gi_profile_id=None if profile == _NO_GPU_INSTANCE else profile,
                max_instances=int(nvml.nvmlVgpuTypeGetMaxInstances(device.handle, number)),
                framebuffer_mib=int(nvml.nvmlVgpuTypeGetFramebufferSize(number)) // _MIB,
            )
        )
    return tuple(found)
