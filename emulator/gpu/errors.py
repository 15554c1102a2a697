"""GPU errors. There is one class per remedy, not per code of the driver."""

from __future__ import annotations

from emulator.core.errors import ExitCode, GpuError


class GpuLostError(GpuError):
    """The GPU fell off the bus, or the driver was reloaded while in use."""


class GpuDriverError(GpuError):
    """The NVIDIA driver is absent, not loaded, or differs in version from its library."""

    exit_code = ExitCode.HOST_NOT_FIT


class GpuBusyError(GpuError):
    """A process, a domain, a compute instance or a vGPU holds the object of the change."""

    exit_code = ExitCode.CONFLICT


class GpuPermissionError(GpuError):
    """The caller may not do this: only root may use NVML's management calls."""

    exit_code = ExitCode.HOST_NOT_FIT


class GpuNotSupportedError(GpuError):
    """The GPU, its MIG mode or its virtualisation mode does not offer this."""


class GpuArgumentError(GpuError):
    """The driver does not know the profile, placement, type or UUID."""


class GpuNotFoundError(GpuError):
    """No such GPU, instance or device."""


class GpuNoRoomError(GpuError):
    """The request does not fit into the free space."""


class GpuResetRequiredError(GpuError):
    """The change is accepted but waits for a reset of the GPU."""


class GpuTimeoutError(GpuError):
    """The driver or the kernel did not answer in time."""
