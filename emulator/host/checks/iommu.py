"""IOMMU: announced by the firmware, used by the kernel, with groups in which a GPU stands alone."""

from __future__ import annotations

from collections.abc import Iterator

from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.readings import CpuVendor, HostReadings
from emulator.labfile.findings import counted

_WHY = "a guest gets a real GPU, whole or as a slice, only through an IOMMU; simulated GPUs need none"
NAMES = {CpuVendor.INTEL: "VT-d", CpuVendor.AMD: "AMD-Vi"}


def needed_arguments(vendor: CpuVendor) -> tuple[str, ...]:
    """Kernel arguments that switch the IOMMU on, with devices of the host itself passed through untranslated."""
    return ("intel_iommu=on", "iommu=pt") if vendor is CpuVendor.INTEL else ("iommu=pt",)


def check_iommu(host: HostReadings, wanted: Wanted) -> Iterator[HostCheckResult]:
    """IOMMU checks: a lab with real GPUs cannot do without one, every other lab can."""
    yield _present(host, wanted)
    yield _enabled(host, wanted)
    yield _arguments(host, wanted)
    yield _groups(host, wanted)


def _level(wanted: Wanted) -> Level:
    return Level.FAIL if wanted.gpus else Level.WARN


def _present(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "iommu.present", "IOMMU present"
    name = NAMES.get(host.processor.vendor, "the IOMMU")
    if host.iommu.tables:
        return ok(id_, title, f"the firmware announces it (ACPI table {', '.join(host.iommu.tables)})", _WHY)
    if host.iommu.groups:
        return ok(id_, title, "the kernel uses one", _WHY)
    if host.iommu.tables is None:
        return HostCheckResult(
            id_, title, Level.WARN, "not to be seen by this user", _WHY, "sudo hyperscaler host check", unseen=True
        )
    fix = f"switch {name} on in the firmware (and SR-IOV for slices): systemctl reboot --firmware-setup"
    if host.processor.is_guest:
        fix = "give this virtual machine an IOMMU on the machine that runs it (<iommu model='intel'/>)"
    return HostCheckResult(id_, title, _level(wanted), "the firmware announces none (no DMAR or IVRS table)", _WHY, fix)


def _enabled(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "iommu.enabled", "IOMMU enabled"
    if host.iommu.groups:
        return ok(id_, title, counted(host.iommu.groups, "group"), _WHY)
    if host.iommu.tables:
        words = " ".join(needed_arguments(host.processor.vendor))
        fix = f"hyperscaler host prepare --gpus, which adds {words} to the kernel's arguments, and reboot"
    else:
        fix = "see IOMMU present"
    return HostCheckResult(id_, title, _level(wanted), "the kernel has made no groups", _WHY, fix)


def _arguments(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "iommu.arguments", "kernel arguments"
    why = "Intel's IOMMU stays off on many kernels until intel_iommu=on; AMD's is on by itself"
    kernel = host.kernel
    off = [f"{name}=off" for name in ("intel_iommu", "amd_iommu", "iommu") if kernel.argument(name) == "off"]
    if off:
        fix = f"take {' '.join(off)} out of /etc/default/grub, then update-grub and reboot"
        return HostCheckResult(id_, title, _level(wanted), f"{' '.join(off)} switches the IOMMU off", why, fix)
    given = [word for word in kernel.arguments if word.partition("=")[0] in ("intel_iommu", "amd_iommu", "iommu")]
    lacking = [word for word in needed_arguments(host.processor.vendor) if word not in given]
    if host.iommu.groups or not lacking:
        return ok(id_, title, " ".join(given) or "none, and the IOMMU is on", why)
    if not (host.gpus or wanted.gpus):
        return ok(id_, title, "none for the IOMMU, and there is no NVIDIA GPU to need them", why)
    fix = f"hyperscaler host prepare --gpus, or add {' '.join(lacking)} to GRUB_CMDLINE_LINUX_DEFAULT; reboot"
    return HostCheckResult(id_, title, _level(wanted), f"{' '.join(lacking)} is not given", why, fix)


def _groups(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "iommu.groups", "GPUs' IOMMU groups"
    why = "all devices of a group go to a guest together, so a GPU passed on whole must be alone in its group"
    grouped = [gpu for gpu in host.gpus if gpu.pci.iommu_group is not None]
    if not grouped:
        return ok(id_, title, "no NVIDIA GPU is in a group" if host.gpus else "no NVIDIA GPU", why)
    shared = [gpu for gpu in grouped if gpu.strangers]
    if not shared:
        each = ", ".join(f"{gpu.pci.address} in {gpu.pci.iommu_group}" for gpu in grouped)
        return ok(id_, title, each, why)
    asked = {address for _, address in wanted.devices} if wanted.whole else set()
    level = Level.FAIL if any(gpu.pci.address in asked for gpu in shared) else Level.WARN
    found = "; ".join(
        f"{gpu.pci.address} shares group {gpu.pci.iommu_group} with "
        + ", ".join(item.address for item in gpu.strangers)
        for gpu in shared
    )
    fix = "switch ACS on in the firmware, or put the GPU into a slot of its own: lspci -t shows the slots"
    return HostCheckResult(id_, title, level, found, why, fix)
