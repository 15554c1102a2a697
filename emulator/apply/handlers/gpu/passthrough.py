"""Whole GPUs: passed to a guest through vfio-pci with everything in their IOMMU group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emulator.apply.gpu_ownership import whole_gpus
from emulator.apply.handler import ApplyContext, Handle
from emulator.apply.handlers.gpu.discovery import VFIO_DRIVER, traced_gpus
from emulator.apply.handlers.gpu.evidence import surely_absent
from emulator.apply.handlers.gpu.host import GpuHost, Gpus
from emulator.core.errors import GpuError
from emulator.core.ports import Hostdev
from emulator.gpu.errors import GpuBusyError
from emulator.plan.gpu_resources import WholeGpu
from emulator.plan.model import Observation, Presence, Recorded
from emulator.plan.resources import Resource


class WholeGpuHandler:
    """Binds whole GPUs to vfio-pci. `passed` returns the host devices that guests of the lab have."""

    def __init__(self, gpus: Gpus, lab: str, passed: Callable[[], Sequence[Hostdev]] = tuple) -> None:
        self._gpus = gpus
        self._lab = lab
        self._passed = passed

    def observe(self, resource: WholeGpu, record: Recorded | None) -> Observation:
        gpus = self._gpus()
        owner = gpus.ledger.owner(resource.pci_address)
        if owner not in (None, self._lab):
            return Observation(Presence.FOREIGN, detail=f"{resource.device} belongs to lab {owner}")
        device = gpus.pci.device(resource.pci_address)
        if device is None:
            return Observation(Presence.FOREIGN, detail=f"there is no GPU at {resource.pci_address}")
        bound = device.driver == VFIO_DRIVER
        unknown = bound and record is None and owner is None
        if unknown and device.iommu_group is not None and not self._traced(gpus, resource):
            holders = gpus.pci.holders(f"/dev/vfio/{device.iommu_group}")
            if holders:
                text = f"{resource.device} is used by {holders[0].name} (pid {holders[0].pid})"
                return Observation(Presence.FOREIGN, detail=text)
        return Observation(Presence.OURS if bound else Presence.ABSENT)

    def ensure(self, resource: WholeGpu, previous: Resource | None, context: ApplyContext) -> Handle:
        del previous
        gpus = self._gpus()
        with gpus.ledger.layout():
            device = gpus.pci.device(resource.pci_address)
            driver = device.driver if device and device.driver else ""
            claimed = gpus.ledger.owner(resource.pci_address) == self._lab
            had = claimed or self._traced(gpus, resource)
            gpus.ledger.claim(resource.pci_address, self._lab)
            # The earlier driver is unknown if an interrupted run has already unbound it, or if a guest of the lab has
            # the GPU and the record is lost.
            unknown = had and driver in ("", VFIO_DRIVER)
            before = context.handle(resource.id).get("driver_before", "nvidia" if unknown else driver)
            try:
                if driver == "nvidia":
                    _refuse_partitioned(gpus, resource)
                with gpus.nvml.released():
                    endpoints = gpus.passthrough.bind(resource.pci_address, group_gpus=resource.group_gpus)
            except GpuError:
                if not claimed and surely_absent(lambda: self._left(resource, driver)):
                    gpus.ledger.release(resource.pci_address, self._lab)
                raise
        return {"driver_before": before, "endpoints": list(endpoints)}

    def _traced(self, gpus: GpuHost, resource: WholeGpu) -> bool:
        return resource.pci_address in traced_gpus(gpus, self._passed())

    def _left(self, resource: WholeGpu, driver: str) -> bool:
        """Whether the GPU is no longer bound to `driver`."""
        device = self._gpus().pci.device(resource.pci_address)
        return device is not None and (device.driver or "") != driver

    def delete(self, resource: WholeGpu, handle: Handle, context: ApplyContext) -> None:
        del context
        gpus = self._gpus()
        with gpus.ledger.layout():
            owner = gpus.ledger.owner(resource.pci_address)
            if owner != self._lab and (owner is not None or "driver_before" not in handle):
                return  # the GPU was never this lab's
            device = gpus.pci.device(resource.pci_address)
            before = handle.get("driver_before", "nvidia")
            # An unbound GPU is released as well: an interrupted run may have left some of its functions on the way to
            # vfio-pci or back. Releasing a GPU that is back already changes nothing.
            if device is not None and before != VFIO_DRIVER:
                bound = device.driver == VFIO_DRIVER and device.iommu_group is not None
                if bound and (held := gpus.pci.holders(f"/dev/vfio/{device.iommu_group}")):
                    raise GpuBusyError(
                        f"{resource.device} is still used by {held[0].name} (pid {held[0].pid})",
                        where=resource.pci_address,
                        fix="shut that virtual machine down first",
                    )
                with gpus.nvml.released():
                    gpus.passthrough.release(resource.pci_address, driver=before)
            gpus.ledger.release(resource.pci_address, self._lab)

    def find(self, lab: str) -> Sequence[Resource]:
        """GPUs that the host's ledger gives to the lab, and GPUs that its guests have and that are in no ledger."""
        gpus = self._gpus()
        devices = (*whole_gpus(gpus.ledger.of(lab)), *traced_gpus(gpus, self._passed()))
        return tuple(WholeGpu(name=key, device=key, pci_address=key, node="", demand="") for key in devices)


def _refuse_partitioned(gpus: GpuHost, resource: WholeGpu) -> None:
    """Refuse a GPU with GPU instances: binding another driver erases them, and this lab's own are gone by now.

    Raises:
        GpuBusyError: names the instances.
    """
    instances = gpus.nvml.instances(resource.pci_address)
    if instances:
        listed = ", ".join(f"{item.profile} at {item.placement.start}" for item in instances)
        raise GpuBusyError(
            f"{resource.device} cannot go to a guest as a whole: it has GPU instances of others: {listed}",
            where=resource.pci_address,
            fix="remove these first (nvidia-smi mig -dgi), or use another GPU",
        )
