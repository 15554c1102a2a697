"""Whether GPUs can do what a plan asks of them, checked before anything is made. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from emulator.core.errors import HostNotFitError
from emulator.gpu.ports import VirtualizationMode
from emulator.host.gpus import Gpu
from emulator.host.iommu_groups import described, foreign_members, is_held

_CUT = "give it back to the nvidia driver, or hand it over whole (strategy: whole)"
_IOMMU = "switch VT-d or AMD-Vi on in the firmware and boot with intel_iommu=on or amd_iommu=on iommu=pt"


def unfit(
    device: str, gpu: Gpu, *, sliced: bool, group_gpus: Collection[str] = (), given: Collection[str] = ()
) -> tuple[str, str] | None:
    """The reason why a GPU cannot go to guests, and the remedy; None if it can.

    Args:
        device: the GPU's id in the lab file.
        gpu: the GPU as discovered. One that NVML does not see is away at a guest, or kept for one by vfio-pci.
        sliced: its slices go to guests as vGPUs; else the GPU as a whole does.
        group_gpus: PCI addresses of other GPUs of its IOMMU group that go to the same guest.
        given: PCI addresses of all GPUs that go to guests as a whole.
    """
    return _unfit_by_itself(device, gpu, sliced=sliced) or (
        None if sliced else _unfit_in_its_group(device, gpu, group_gpus, given)
    )


def _unfit_by_itself(device: str, gpu: Gpu, *, sliced: bool) -> tuple[str, str] | None:
    if gpu.nvml is None:
        return _unfit_without_nvml(device, gpu, sliced=sliced)
    name = f"{device} ({gpu.name} at {gpu.pci_address})"
    mode = gpu.nvml.virtualization
    # A virtual machine can hand a GPU on as a whole if it has an IOMMU of its own.
    if mode is VirtualizationMode.VGPU_GUEST or (mode is VirtualizationMode.PASSTHROUGH and sliced):
        return (
            f"this host is itself a virtual machine that was given {name} (virtualisation mode {mode.name.lower()}),"
            " and cannot divide it further",
            "run on the host that owns the GPU, or use gpu_allocation.backend: simulated",
        )
    if gpu.pci is not None and gpu.pci.iommu_group is None:
        return f"{name} is in no IOMMU group, so that neither the GPU nor its slices can go to a guest", _IOMMU
    if sliced and mode is not VirtualizationMode.HOST_VGPU:
        reported = mode.name.lower() if mode is not None else "not reported"
        return (
            f"the driver offers no vGPUs of {name} (virtualisation mode {reported}): it is the data-centre driver",
            "install NVIDIA's vGPU host driver (Virtual GPU Manager), or hand the GPU over whole (strategy: whole)",
        )
    return None


def _unfit_without_nvml(device: str, gpu: Gpu, *, sliced: bool) -> tuple[str, str] | None:
    name = f"{device} ({gpu.name} at {gpu.pci_address})"
    if not gpu.is_kept_for_guests:
        return None
    if sliced:
        return f"{name} is kept for guests as a whole (driver {gpu.driver or 'none'}), so that it makes no slices", _CUT
    if gpu.pci is not None and gpu.pci.iommu_group is None:
        return f"{name} is in no IOMMU group, so that neither the GPU nor its slices can go to a guest", _IOMMU
    return None


def _unfit_in_its_group(
    device: str, gpu: Gpu, group_gpus: Collection[str], given: Collection[str]
) -> tuple[str, str] | None:
    """The kernel lets a guest have a GPU only while neither a driver of the host nor another guest has another endpoint
    of its IOMMU group."""
    if gpu.pci is None:
        return None
    others = foreign_members(gpu.pci, gpu.iommu_group, taken=group_gpus)
    held = [item for item in others if is_held(item) or item.address in given]
    if not held:
        return None
    return (
        f"{device} ({gpu.name} at {gpu.pci_address}) shares IOMMU group {gpu.pci.iommu_group} with "
        + ", ".join(map(described, held)),
        "switch ACS on in the firmware, put the GPU into a slot of its own, or give what shares its group to the same "
        "node or to no driver",
    )


def require_fit(
    uses: Collection[tuple[str, bool]],
    gpus: Mapping[str, Gpu],
    *,
    group_gpus: Mapping[str, Collection[str]] | None = None,
    given: Collection[str] = (),
) -> None:
    """Raise one error that names everything.

    Args:
        uses: device, and whether its slices are used.
        gpus: by device.
        group_gpus: by PCI address the other GPUs of its IOMMU group that go to the same node.
        given: PCI addresses of all GPUs that go to guests as a whole, of this lab or another.

    Raises:
        HostNotFitError: a GPU cannot do what is asked of it.
    """
    mates = group_gpus or {}
    found = [
        reason
        for device, sliced in sorted(set(uses))
        if (gpu := gpus[device])
        and (reason := unfit(device, gpu, sliced=sliced, group_gpus=mates.get(gpu.pci_address, ()), given=given))
    ]
    if found:
        raise HostNotFitError(
            "; ".join(what for what, _ in found),
            where="global.gpu_allocation.devices",
            fix="; ".join(dict.fromkeys(fix for _, fix in found)),
        )
