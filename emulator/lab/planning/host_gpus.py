"""The host's own GPUs, opened for looking only."""

from __future__ import annotations

from emulator.apply.handlers.gpu_host import GpuHost
from emulator.lab.environment import Environment
from emulator.labfile.model import GpuBackend


# ---------------------------------------------------------------- opening, for looking only
def host_gpus(env: Environment) -> GpuHost:
    """The host's own GPUs."""
    return env.gpus(GpuBackend.NVML.value, env.home.lab("none"), None, dry=True)
