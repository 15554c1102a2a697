"""The host's GPUs: NVML's report and PCI sysfs joined, and how the lab file differs from them.

`discover_gpus` asks its ports; all other functions are pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from emulator.core.errors import HostNotFitError, HyperscalerError
from emulator.core.ports import log
from emulator.gpu.catalog import close_names, find_gpu, find_gpu_by_pci
from emulator.gpu.model import GpuModel
from emulator.gpu.ports import (
    DeviceHolder,
    NvmlFault,
    NvmlGpu,
    NvmlGpus,
    NvmlSurvey,
    PciBus,
    PciDevice,
    VgpuFramework,
    VgpuParent,
    VgpuTypeInfo,
    others,
)
from emulator.labfile.model import GpuDeviceSpec

NVIDIA_VENDOR = "10de"
VFIO_PCI = "vfio-pci"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One physical GPU of the host.

    Attributes:
        pci_address: `0000:41:00.0`.
        nvml: NVML's report; None for a GPU that NVML does not see (bound to vfio-pci, lost, without a driver).
        pci: the PCI function in sysfs; None if sysfs does not show it.
        model: the catalogue's entry; None for a GPU that is not in the catalogue.
        iommu_group: all members of its group, itself included; empty without an IOMMU.
        framework: how the kernel offers vGPUs on it.
        vfs: addresses of its virtual functions.
        holders: processes that have its device node open, whether or not they compute.
        driver_version: of the NVIDIA driver; empty without one.
        fault: why NVML could not read a GPU that the nvidia driver serves; None for a GPU that could be read.
    """

    pci_address: str
    nvml: NvmlGpu | None
    pci: PciDevice | None
    model: GpuModel | None
    iommu_group: tuple[PciDevice, ...]
    framework: VgpuFramework
    vfs: tuple[str, ...]
    holders: tuple[DeviceHolder, ...]
    driver_version: str
    fault: NvmlFault | None = None

    @property
    def name(self) -> str:
        """The product's name, as NVML or the catalogue has it."""
        if self.nvml is not None:
            return self.nvml.name
        return self.model.product_name if self.model else f"NVIDIA device {self.pci.device if self.pci else '?'}"

    @property
    def driver(self) -> str | None:
        """The kernel driver that is bound to it."""
        return self.pci.driver if self.pci else None

    @property
    def is_kept_for_guests(self) -> bool:
        """Whether no driver uses it, so that it can go to a guest as a whole without NVML: vfio-pci took it at boot, or
        nothing did."""
        return self.nvml is None and self.pci is not None and _is_unused(self.pci)


def _is_unused(device: PciDevice) -> bool:
    return device.driver in (None, VFIO_PCI)


def discover_gpus(nvml: NvmlGpus, pci: PciBus) -> tuple[Gpu, ...]:
    """Every physical NVIDIA GPU in PCI order, including GPUs that NVML cannot read, without virtual functions.

    Without NVIDIA's driver the GPUs are those of sysfs, with what the catalogue knows of them: whole GPUs need no more.

    Raises:
        HostNotFitError: there is no NVIDIA driver, and no GPU that does without: vfio-pci has none, and none is unused.
    """
    devices = {
        device.address: device
        for device in pci.devices(vendor=NVIDIA_VENDOR)
        if device.physfn is None and device.class_code.startswith("03")
    }
    version, survey = _by_driver(nvml, required=not any(map(_is_unused, devices.values())))
    gpus = {gpu.pci_address: gpu for gpu in survey.gpus}
    virtual = {address for device in devices.values() for address in device.virtfns}
    faults = _faults_by_address(survey, devices.values())
    addresses = sorted({*gpus, *devices, *faults} - virtual)
    nodes = {address: _nodes(gpus.get(address), devices.get(address)) for address in addresses}
    wanted = [node for found in nodes.values() for node in found]
    # One walk through the processes for all GPUs: on a busy host it is the slowest part.
    holders = others(pci.holders(*wanted)) if wanted else ()
    return tuple(
        _joined(
            address,
            gpus.get(address),
            devices.get(address),
            pci,
            version,
            tuple(holder for holder in holders if holder.path in nodes[address]),
            faults.get(address),
        )
        for address in addresses
    )


def _by_driver(nvml: NvmlGpus, *, required: bool) -> tuple[str, NvmlSurvey]:
    """The driver's version and what NVML reports; empty without a driver, where none is required."""
    try:
        return nvml.driver_version(), nvml.survey()
    except HostNotFitError:
        if required:
            raise
        return "", NvmlSurvey((), ())


def _faults_by_address(survey: NvmlSurvey, devices: Iterable[PciDevice]) -> dict[str, NvmlFault]:
    """Faults by PCI address. A fault without an address belongs to a GPU of the nvidia driver that NVML did not list.

    If there are several such GPUs, which fault belongs to which is unknown: each of them gets all these faults.
    """
    faults = {fault.pci_address: fault for fault in survey.faults if fault.pci_address is not None}
    nameless = [fault for fault in survey.faults if fault.pci_address is None]
    if nameless:
        listed = {*faults, *(gpu.pci_address for gpu in survey.gpus)}
        reason = "; or ".join(dict.fromkeys(fault.reason for fault in nameless))
        fix = "; ".join(dict.fromkeys(fault.fix for fault in nameless if fault.fix))
        missing = [item.address for item in devices if item.driver == "nvidia" and item.address not in listed]
        faults |= {address: NvmlFault(address, reason, fix) for address in missing}
        if not missing:
            log.warning("a GPU that sysfs does not show: %s", reason)
    return faults


def _nodes(gpu: NvmlGpu | None, device: PciDevice | None) -> tuple[str, ...]:
    """Device nodes through which a process holds the GPU."""
    found = []
    if gpu is not None and gpu.minor_number is not None:
        found.append(f"/dev/nvidia{gpu.minor_number}")
    if device is not None and device.iommu_group is not None and device.driver == "vfio-pci":
        found.append(f"/dev/vfio/{device.iommu_group}")
    return tuple(found)


def _joined(
    address: str,
    gpu: NvmlGpu | None,
    device: PciDevice | None,
    pci: PciBus,
    version: str,
    holders: tuple[DeviceHolder, ...],
    fault: NvmlFault | None,
) -> Gpu:
    group = () if device is None or device.iommu_group is None else pci.iommu_group(device.iommu_group)
    model = find_gpu_by_pci(gpu.pci_id) if gpu is not None else None
    if model is None and device is not None:
        model = find_gpu_by_pci(f"{device.vendor}:{device.device}")
    return Gpu(
        pci_address=address,
        nvml=gpu,
        pci=device,
        model=model,
        iommu_group=group,
        framework=pci.framework(address) if device is not None else VgpuFramework.NONE,
        vfs=device.virtfns if device is not None else (),
        holders=holders,
        driver_version=version,
        fault=fault,
    )


def kept_for_guests(gpus: Iterable[Gpu]) -> frozenset[str]:
    """Addresses of the GPUs that can go to guests as a whole without an NVIDIA driver."""
    return frozenset(gpu.pci_address for gpu in gpus if gpu.is_kept_for_guests)


# ---------------------------------------------------------------- the lab file against reality
@dataclass(frozen=True, slots=True)
class DeviceDifference:
    """One point in which a device of the lab file differs from the host's. `field` is a key of the device."""

    device: str
    field: str
    expected: str
    found: str
    fix: str

    def __str__(self) -> str:
        return f"{self.device}: {self.field} is {self.expected} in the file, but {self.found}"


def check_devices(
    spec_devices: Sequence[GpuDeviceSpec], gpus: Sequence[Gpu], *, out: Collection[str] = ()
) -> tuple[DeviceDifference, ...]:
    """All differences between the file's devices and the host's; empty if there are none.

    `out` are addresses of GPUs that labs have as a whole, or are to have: NVML need not see these.
    """
    found: list[DeviceDifference] = []
    by_address = {gpu.pci_address: gpu for gpu in gpus}
    for spec in spec_devices:
        gpu = by_address.get(spec.pci_address.lower())
        if gpu is None:
            found.append(_absent(spec, gpus))
        else:
            found.extend(_compare(spec, gpu, out=gpu.pci_address in out))
    return tuple(found)


def _absent(spec: GpuDeviceSpec, gpus: Sequence[Gpu]) -> DeviceDifference:
    there = ", ".join(f"{gpu.name} at {gpu.pci_address}" for gpu in gpus) or "no NVIDIA GPU at all"
    return DeviceDifference(
        spec.id,
        "pci_address",
        spec.pci_address,
        f"the host has {there}",
        "set pci_address to one of those, or use gpu_allocation.backend: simulated",
    )


def _compare(spec: GpuDeviceSpec, gpu: Gpu, *, out: bool) -> list[DeviceDifference]:
    found: list[DeviceDifference] = []

    def differ(field: str, expected: str, what: str, fix: str) -> None:
        found.append(DeviceDifference(spec.id, field, expected, what, fix))

    # A GPU that cannot be cut goes out as a whole, and needs no NVML for that.
    whole = out or (gpu.is_kept_for_guests and not spec.mig_capable)
    if gpu.fault is not None:
        differ("pci_address", spec.pci_address, f"NVML cannot read the GPU there: {gpu.fault.reason}", gpu.fault.fix)
    elif gpu.nvml is None and not whole:
        differ(
            "pci_address",
            spec.pci_address,
            f"NVML does not see the GPU there (driver {gpu.driver or 'none'})",
            f"give the {gpu.name} back to the nvidia driver: hyperscaler gpu release LAB if a lab has it, else by "
            "hand; or ask for whole GPUs alone, which need no NVIDIA driver (strategy: whole)",
        )
    wanted = find_gpu(spec.model)
    if gpu.model is not None and wanted is not None and wanted.id != gpu.model.id:
        differ("model", spec.model, f"the host has {gpu.name}", f"write model: {gpu.model.product_name}")
    elif wanted is None and spec.model.lower() not in gpu.name.lower():
        near = ", ".join(close_names(spec.model)) or gpu.name
        differ("model", spec.model, f"the host has {gpu.name}", f"write model: {gpu.name} (known: {near})")
    capable = _mig_capable(gpu)
    if capable is not None and capable != spec.mig_capable:
        differ(
            "mig_capable",
            str(spec.mig_capable).lower(),
            f"the GPU {'has' if capable else 'has no'} MIG",
            f"write mig_capable: {str(capable).lower()}",
        )
    offered = profile_names(gpu)
    for name in spec.allowed_mig_profiles if offered else ():
        if name not in offered:
            differ("allowed_mig_profiles", name, f"the GPU offers {', '.join(offered)}", "take one of those names")
    return found


def _mig_capable(gpu: Gpu) -> bool | None:
    if gpu.nvml is not None:
        return gpu.nvml.mig is not None
    return gpu.model.mig_capable if gpu.model else None


def profile_names(gpu: Gpu) -> tuple[str, ...]:
    """The GPU's profiles as its driver names them; from the catalogue while MIG is off."""
    if gpu.nvml is not None and gpu.nvml.profiles:
        return tuple(profile.name for profile in gpu.nvml.profiles)
    return gpu.model.profile_names if gpu.model else ()


# ---------------------------------------------------------------- why a vGPU cannot be made
class Unavailable(StrEnum):
    """The meanings of 0 in `available_instances`, and of a type that is missing in `creatable_vgpu_types`."""

    PARENT_TAKEN = "the virtual function carries a vGPU already"
    MIG_MODE_OFF = "the type is MIG-backed, but the GPU's MIG mode is off"
    MIG_MODE_ON = "the type is time-sliced, but the GPU's MIG mode is on"
    NO_INSTANCE = "there is no GPU instance of its profile"
    NO_FREE_INSTANCE = "every GPU instance of its profile carries a vGPU"
    OTHER_TYPE = "time-sliced vGPUs of another type are on the GPU"
    NO_SUCH_TYPE = "the GPU does not offer the type"
    UNKNOWN = "the driver does not say why"


def why_unavailable(wanted: str, gpu: NvmlGpu, parents: Sequence[VgpuParent], parent: str) -> Unavailable:
    """The meaning that applies to type `wanted` on function `parent`, by the reports of NVML and of sysfs."""
    kind = next((item for item in gpu.vgpu_types if item.name == wanted), None)
    if kind is None:
        return Unavailable.NO_SUCH_TYPE
    if any(item.address == parent and item.devices for item in parents):
        return Unavailable.PARENT_TAKEN
    mig = gpu.mig is not None and gpu.mig.current
    devices = [device for item in parents for device in item.devices]
    if kind.gi_profile_id is None:
        if mig:
            return Unavailable.MIG_MODE_ON
        other = any(device.type_id != kind.id for device in devices)
        return Unavailable.OTHER_TYPE if other else Unavailable.UNKNOWN
    if not mig:
        return Unavailable.MIG_MODE_OFF
    return _instance_reason(kind, gpu, [device.type_id for device in devices])


def _instance_reason(kind: VgpuTypeInfo, gpu: NvmlGpu, carried: list[int]) -> Unavailable:
    profile = next((item.name for item in gpu.profiles if item.gi_profile_id == kind.gi_profile_id), None)
    there = sum(item.profile == profile for item in gpu.instances)
    if not there:
        return Unavailable.NO_INSTANCE
    same_profile = {item.id for item in gpu.vgpu_types if item.gi_profile_id == kind.gi_profile_id}
    used = sum(number in same_profile for number in carried)
    return Unavailable.NO_FREE_INSTANCE if used >= there else Unavailable.UNKNOWN


def require_devices(spec_devices: Sequence[GpuDeviceSpec], gpus: Sequence[Gpu], *, out: Collection[str] = ()) -> None:
    """Raise one error that names every difference; see `check_devices`.

    Raises:
        HyperscalerError: the host is not what the file says.
    """
    differences = check_devices(spec_devices, gpus, out=out)
    if differences:
        raise HyperscalerError(
            "the lab file's GPUs are not what the host has: " + "; ".join(str(item) for item in differences),
            where="global.gpu_allocation.devices",
            fix="; ".join(dict.fromkeys(item.fix for item in differences)),
        )
