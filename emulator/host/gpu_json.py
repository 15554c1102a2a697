"""A discovered GPU as plain data, for `--json`. Keys are an interface: add, do not rename."""

from __future__ import annotations

from emulator.gpu.ports import NvmlBoard
from emulator.host.gpus import Gpu

Record = dict[str, object]


def gpu_record(gpu: Gpu) -> Record:
    """JSON-ready facts of one GPU; memory in MiB, placements in memory slices."""
    board = gpu.board
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
        "nvml": _board_record(board) if board is not None else None,
    }


def _board_record(board: NvmlBoard) -> Record:
    mig = board.mig
    return {
        "index": board.index,
        "uuid": board.uuid,
        "architecture": board.architecture,
        "memory_total_mib": board.memory_total_mib,
        "memory_used_mib": board.memory_used_mib,
        "virtualization": board.virtualization.name.lower() if board.virtualization is not None else None,
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
            for item in board.profiles
        ],
        "instances": [
            {
                "profile": item.profile,
                "start": item.placement.start,
                "size": item.placement.size,
                "id": item.gi_id,
                "busy": item.busy,
            }
            for item in board.instances
        ],
        "processes": [
            {
                "pid": item.pid,
                "name": item.name,
                "memory_mib": item.memory_mib,
                "gpu_instance_id": item.gpu_instance_id,
            }
            for item in board.processes
        ],
    }
