"""The host's own GPUs, opened for looking only."""

from __future__ import annotations

from emulator.apply.handlers.gpu.host import GpuHost
from emulator.lab.environment import World
from emulator.labfile.model import GpuBackend


# ---------------------------------------------------------------- opening, for looking only
def host_gpus(world: World) -> GpuHost:
    """The host's own GPUs."""
    return world.gpus(GpuBackend.NVML.value, world.home.lab("none"), None, dry=True)
