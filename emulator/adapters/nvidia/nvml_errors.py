"""NVML's return codes as errors with a remedy."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.core.errors import GpuError, HostNotFitError, HyperscalerError
from emulator.gpu.errors import (
    GpuArgumentError,
    GpuBusyError,
    GpuDriverError,
    GpuLostError,
    GpuNoRoomError,
    GpuNotFoundError,
    GpuNotSupportedError,
    GpuPermissionError,
    GpuResetRequiredError,
    GpuTimeoutError,
)

NO_DRIVER_FIX = (
    "install and load the NVIDIA driver, or set `gpu_allocation.backend: simulated` in the lab file for "
    "a lab without hardware"
)


@dataclass(frozen=True, slots=True)
class Meaning:
    """The meaning of a return code for the user."""

    error: type[GpuError]
    what: str
    fix: str


_DMESG = "look at `dmesg | grep -i -e nvrm -e xid`"
_HOLDERS = (
    "stop the users of the GPU and try again; often they are nvidia-persistenced, DCGM, nvsm or a display server "
    "(`hyperscaler gpu discover` names them). MIG mode goes off only after vGPUs, GPU instances and virtual "
    "functions are gone"
)

# Codes and their meaning: nvml.h, nvmlReturn_t.
MEANINGS: dict[int, Meaning] = {
    1: Meaning(GpuDriverError, "the library is not initialised", "run the command again"),
    2: Meaning(
        GpuArgumentError,
        "the driver does not know this profile, placement or GPU (invalid argument)",
        "compare with what the GPU offers: hyperscaler gpu discover",
    ),
    3: Meaning(
        GpuNotSupportedError,
        "the GPU does not support this, its MIG mode is off, or this is a guest",
        "compare MIG mode and virtualisation: hyperscaler gpu discover",
    ),
    4: Meaning(GpuPermissionError, "no permission", "run as root; only root may manage MIG and vGPUs"),
    6: Meaning(GpuNotFoundError, "there is no such object", "it may have gone since: hyperscaler gpu discover"),
    7: Meaning(GpuDriverError, "the driver's answer was too large", "the layout changed in the meantime; try again"),
    8: Meaning(GpuDriverError, "the GPU's external power cables are not attached", "attach them"),
    9: Meaning(GpuDriverError, "the NVIDIA driver is not loaded", "modprobe nvidia"),
    10: Meaning(GpuTimeoutError, "the driver did not answer in time", _DMESG),
    11: Meaning(GpuDriverError, "the kernel has an interrupt problem with the GPU", _DMESG),
    12: Meaning(GpuDriverError, "libnvidia-ml.so.1 is missing", NO_DRIVER_FIX),
    13: Meaning(GpuDriverError, "the driver is too old for this", "install a newer NVIDIA driver"),
    14: Meaning(GpuDriverError, "the GPU's infoROM is corrupted", "have the GPU serviced"),
    15: Meaning(
        GpuLostError,
        "the GPU is lost: it fell off the bus, or the driver was reloaded",
        f"{_DMESG}; run the command again, and reboot if the GPU stays away",
    ),
    16: Meaning(
        GpuResetRequiredError,
        "the GPU needs a reset first",
        "stop its users, then: nvidia-smi --gpu-reset -i <GPU>; in a guest, restart the guest",
    ),
    17: Meaning(GpuDriverError, "the operating system blocked the driver", _DMESG),
    18: Meaning(
        GpuDriverError,
        "driver and library have different versions",
        "reboot, or reload the nvidia modules: the package was updated under the running driver",
    ),
    19: Meaning(GpuBusyError, "the GPU is in use", _HOLDERS),
    20: Meaning(GpuNoRoomError, "the driver is out of memory", "stop the users of the GPU"),
    21: Meaning(GpuNotFoundError, "the driver has no data", "try again"),
    23: Meaning(
        GpuNoRoomError,
        "no room: the memory slices are taken, or the GPU holds no more instances of this kind",
        "see the present slices: hyperscaler gpu discover; see what would fit: hyperscaler gpu plan FILE",
    ),
    25: Meaning(GpuDriverError, "the driver does not know this version of the call", "install a newer driver"),
    27: Meaning(GpuDriverError, "the GPU is not ready yet", "try again in a few seconds"),
    28: Meaning(GpuNotFoundError, "there is no such GPU", "compare with: hyperscaler gpu discover"),
    29: Meaning(GpuBusyError, "the GPU is in a state that does not allow this", _HOLDERS),
    30: Meaning(GpuResetRequiredError, "this kind of reset is not supported", "reboot the host"),
}


def translate(code: int, doing: str, where: str) -> GpuError:
    """The error for a return code. For an unknown code the message contains the number."""
    meaning = MEANINGS.get(code)
    if meaning is None:
        return GpuError(f"{doing}: NVML answered with code {code}", where=where, fix=_DMESG)
    return meaning.error(f"{doing}: {meaning.what}", where=where, fix=meaning.fix)


def no_driver(code: int) -> HyperscalerError:
    """The error for a library that cannot be initialised."""
    if code in (9, 12):
        missing = "its library libnvidia-ml.so.1 is missing" if code == 12 else "its module is not loaded"
        return HostNotFitError(f"no NVIDIA driver on this host: {missing}", fix=NO_DRIVER_FIX)
    return translate(code, "starting NVML", "")
