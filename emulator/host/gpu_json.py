"""A discovered GPU as plain data for `--json`. The keys are an interface: add keys, never rename them."""

from __future__ import annotations

from emulator.gpu.ports import NvmlGpu
from emulator.host.gpus import Gpu

Record = dict[str, object]


def gpu_record(gpu: Gpu) -> Record:
    """JSON-ready facts of one GPU; memory in MiB, placements in memory slices."""
    seen = gpu.nvml
    return {
        "pci_address": gpu.pci_address,
        "name": gpu.name,
        "model": gpu.model.id if gpu.model else None,
        "driver": gpu.driver,
        "driver_version": gpu.driver_version,
        "vgpu_framework": gpu.framework.value,
        "virtual_functions": list(gpu.vfs),
        "iommu_group": gpu.pci.iommu_group if gpu.pci else None,
        "iommu_group_members": [
            {"pci_address": item.address, "class": item.class_code, "driver": item.driver} for item in gpu.iommu_group
        ],
        "holders": [{"pid": item.pid, "name": item.name, "path": item.path} for item in gpu.holders],
        "nvml": _gpu_record(seen) if seen is not None else None,
        "fault": {"reason": gpu.fault.reason, "fix": gpu.fault.fix} if gpu.fault is not None else None,
    }


def _gpu_record(gpu: NvmlGpu) -> Record:
    mig = gpu.mig
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "architecture": gpu.architecture,
        "memory_total_mib": gpu.memory_total_mib,
        "memory_used_mib": gpu.memory_used_mib,
        "virtualization": gpu.virtualization.name.lower() if gpu.virtualization is not None else None,
        "mig_capable": mig is not None,
        "mig_mode": None if mig is None else {"current": mig.current, "pending": mig.pending},
        "profiles": [
            {
                "name": item.name,
                "gi_profile_id": item.gi_profile_id,
                "compute_slices": item.compute_slices,
                "memory_slices": item.memory_slices,
                "memory_mib": item.memory_mib,
                "max_instances": item.max_instances,
                "starts": None if item.placements is None else list(item.starts),
            }
            for item in gpu.profiles
        ],
        "instances": [
            {
                "profile": item.profile,
                "start": item.placement.start,
                "size": item.placement.size,
                "id": item.gi_id,
                "busy": item.busy,
            }
            for item in gpu.instances
        ],
        "processes": [
            {
                "pid": item.pid,
                "name": item.name,
                "memory_mib": item.memory_mib,
                "gpu_instance_id": item.gpu_instance_id,
            }
            for item in gpu.processes
        ],
    }
