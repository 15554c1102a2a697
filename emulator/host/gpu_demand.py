"""What a lab asks of GPUs. It loads little: `host check` without a lab file imports it, too."""

from __future__ import annotations

from emulator.labfile.model import ClusterSpec, GpuStrategy


def asks_for_whole_gpus(spec: ClusterSpec) -> bool:
    """Whether some node of the lab is to get a whole GPU."""
    gpu = spec.gpu
    if gpu.strategy is GpuStrategy.WHOLE or any(node.gpu.whole for node in spec.nodes if node.gpu):
        return True
    if gpu.strategy is GpuStrategy.MIG:
        return False
    return any(gpu.whole_gpus.values()) or not any(device.mig_capable for device in gpu.devices)
