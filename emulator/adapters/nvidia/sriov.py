"""Virtual functions of NVIDIA GPUs, through the vendor's script.

The driver rejects direct writes to `sriov_numvfs`, so `sriov-manage` is the only way (vGPU user guide 17, 2.10). The
script's exit status proves nothing: soon after the driver has loaded it fails for passing reasons, and the one of vGPU
17.2 exits 0 although no function appeared (gpu-driver-container#29). Only the `virtfn*` links afterwards count.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from emulator.adapters.nvidia.pci_sysfs import SysfsPci, normal_address
from emulator.core.errors import CommandError
from emulator.core.ports import ProcessRunner
from emulator.gpu.errors import GpuBusyError, GpuDriverError, GpuNotFoundError, GpuNotSupportedError
from emulator.gpu.ports import FileAccess, PciDevice

SRIOV_MANAGE = "/usr/lib/nvidia/sriov-manage"

# Messages of the script after which another try helps (cubecos config_gpu.cpp): it could not take the unbind lock, the
# driver had not initialised the GPU yet, or NVLink was still training.
_PASSING = ("unbind lock", "unbindlock", "not initialized", "uninitialized", "nvlink", "try again")


class SriovManage:
    """`SriovControl` through `sriov-manage`.

    Args:
        files: shows whether the script exists and which functions it made.
        runner: runs the script.
        attempts: number of tries after passing failures.
        pause: seconds between attempts.
        sleep: waits; tests replace it.
    """

    def __init__(
        self,
        files: FileAccess,
        runner: ProcessRunner,
        *,
        attempts: int = 5,
        pause: float = 2.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._files = files
        self._pci = SysfsPci(files)
        self._runner = runner
        self._attempts = attempts
        self._pause = pause
        self._sleep = sleep

    def enable(self, address: str) -> tuple[str, ...]:
        device = self._device(address)
        if device.virtfns:
            # Running it again with live vGPUs can detach the GPU (ansible-cozystack#70).
            return device.virtfns
        if device.totalvfs == 0:
            raise GpuNotSupportedError(
                "this GPU offers no SR-IOV virtual functions",
                where=f"pci {device.address}",
                fix="switch SR-IOV on in the firmware, install the vGPU host driver (not the data-centre "
                "driver), or use the GPU as a whole",
            )
        output = self._call("-e", device)
        after = self._device(address)
        if not after.virtfns:
            raise GpuDriverError(
                f"sriov-manage -e {device.address} reported success, but no virtual function appeared"
                + (f"; its output: {output}" if output else ""),
                where=f"pci {device.address}",
                fix=f"look at `dmesg | grep -i -e nvidia -e sriov`, check SR-IOV and the IOMMU in the "
                f"firmware, then run {SRIOV_MANAGE} -e {device.address}",
            )
        return after.virtfns

    def disable(self, address: str) -> None:
        device = self._device(address)
        if not device.virtfns:
            return
        self._call("-d", device)
        left = self._device(address).virtfns
        if left:
            raise GpuBusyError(
                f"sriov-manage -d {device.address} reported success, but {len(left)} virtual functions remain",
                where=f"pci {device.address}",
                fix="stop the domains that use them and remove their vGPUs first",
            )

    def _device(self, address: str) -> PciDevice:
        device = self._pci.device(normal_address(address))
        if device is None:
            raise GpuNotFoundError(
                "there is no such PCI function", where=f"pci {address}", fix="compare with lspci -D -d 10de:"
            )
        return device

    def _call(self, option: str, device: PciDevice) -> str:
        if not self._files.exists(SRIOV_MANAGE):
            raise GpuDriverError(
                f"{SRIOV_MANAGE} is not installed",
                where=f"pci {device.address}",
                fix="install NVIDIA's vGPU host driver (Virtual GPU Manager); the data-centre driver lacks it",
            )
        argv = (SRIOV_MANAGE, option, device.address)
        output = ""
        for attempt in range(self._attempts):
            done = self._runner.run(argv, timeout=120.0, check=False)
            output = " ".join(f"{done.stdout} {done.stderr}".split())
            if not any(word in output.lower() for word in _PASSING):
                break
            if attempt + 1 < self._attempts:
                self._sleep(self._pause)
        if done.returncode:
            raise CommandError(
                f"sriov-manage failed with status {done.returncode}: {output or 'no output'}",
                where=" ".join(argv),
                fix="stop the users of the GPU (`hyperscaler gpu discover` names them), then try again",
            )
        return output
