"""The IOMMU: announced by the firmware, used by the kernel, with GPUs alone in their groups."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from emulator.gpu.ports import PciDevice
from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.iommu_groups import described, foreign_members, is_idle_host_bridge
from emulator.host.readings import CpuVendor, HostReadings, PciGpu
from emulator.labfile.findings import counted

_WHY = "guests get real GPUs, whole or as slices, only through an IOMMU; simulated GPUs need none"
NAMES = {CpuVendor.INTEL: "VT-d", CpuVendor.AMD: "AMD-Vi"}


def needed_arguments(vendor: CpuVendor) -> tuple[str, ...]:
    """Kernel arguments that switch the IOMMU on and leave the host's own devices untranslated."""
    return ("intel_iommu=on", "iommu=pt") if vendor is CpuVendor.INTEL else ("iommu=pt",)


def check_iommu(host: HostReadings, wanted: Wanted) -> Iterator[HostCheckResult]:
    """Checks of the IOMMU, which labs with real GPUs need and other labs do not."""
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
            id_, title, Level.WARN, "hidden from this user", _WHY, "sudo hyperscaler host check", unseen=True
        )
    fix = f"switch {name} on in the firmware (and SR-IOV for slices): systemctl reboot --firmware-setup"
    if host.processor.is_guest:
        fix = "give this virtual machine an IOMMU in the settings of its own host (<iommu model='intel'/>)"
    return HostCheckResult(id_, title, _level(wanted), "the firmware announces none (no DMAR or IVRS table)", _WHY, fix)


def _enabled(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "iommu.enabled", "IOMMU enabled"
    if host.iommu.groups:
        return ok(id_, title, counted(host.iommu.groups, "group"), _WHY)
    if host.iommu.tables:
        words = " ".join(needed_arguments(host.processor.vendor))
        fix = f"hyperscaler host prepare --gpus (it adds {words} to the kernel's arguments), then reboot"
    else:
        fix = "see IOMMU present"
    return HostCheckResult(id_, title, _level(wanted), "the kernel has made no groups", _WHY, fix)


def _arguments(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "iommu.arguments", "kernel arguments"
    why = "Intel's IOMMU stays off on many kernels until intel_iommu=on; AMD's is on by itself"
    kernel = host.kernel
    off = [f"{name}=off" for name in ("intel_iommu", "amd_iommu", "iommu") if kernel.argument(name) == "off"]
    if off:
        fix = f"remove {' '.join(off)} from /etc/default/grub, then update-grub and reboot"
        return HostCheckResult(id_, title, _level(wanted), f"{' '.join(off)} switches the IOMMU off", why, fix)
    given = [word for word in kernel.arguments if word.partition("=")[0] in ("intel_iommu", "amd_iommu", "iommu")]
    lacking = [word for word in needed_arguments(host.processor.vendor) if word not in given]
    if host.iommu.groups or not lacking:
        return ok(id_, title, " ".join(given) or "none, and the IOMMU is on", why)
    if not (host.gpus or wanted.gpus):
        return ok(id_, title, "none for the IOMMU, and no NVIDIA GPU that needs them", why)
    fix = f"hyperscaler host prepare --gpus, or add {' '.join(lacking)} to GRUB_CMDLINE_LINUX_DEFAULT; reboot"
    return HostCheckResult(id_, title, _level(wanted), f"{' '.join(lacking)} is not given", why, fix)


def _groups(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "iommu.groups", "GPUs' IOMMU groups"
    why = "all endpoints of a group go to a guest together, so a GPU passed on whole must be alone in its group"
    grouped = [gpu for gpu in host.gpus if gpu.pci.iommu_group is not None]
    if not grouped:
        return ok(id_, title, "no NVIDIA GPU is in a group" if host.gpus else "no NVIDIA GPU", why)
    asked = {address for _, address in wanted.devices} if wanted.whole else set()
    shared = {gpu.pci.address: _foreign(gpu, asked) for gpu in grouped}
    named = [_shared(gpu, shared[gpu.pci.address]) for gpu in grouped if shared[gpu.pci.address]]
    if not named:
        each = ", ".join(f"{gpu.pci.address} in {gpu.pci.iommu_group}{_mates(gpu, asked)}" for gpu in grouped)
        return ok(id_, title, each, why)
    bad = any(address in asked and not all(map(is_idle_host_bridge, found)) for address, found in shared.items())
    fix = (
        "switch ACS on in the firmware, put the GPU into a slot of its own (lspci -t shows the slots), or unbind what "
        "shares its group if the host can do without it"
    )
    return HostCheckResult(id_, title, Level.FAIL if bad else Level.WARN, "; ".join(named), why, fix)


def _foreign(gpu: PciGpu, asked: Collection[str]) -> tuple[PciDevice, ...]:
    """Endpoints in the GPU's group that the lab does not ask for along with it."""
    return foreign_members(gpu.pci, gpu.group, taken=asked if gpu.pci.address in asked else ())


def _shared(gpu: PciGpu, members: Iterable[PciDevice]) -> str:
    listed = ", ".join(map(described, members))
    return f"{gpu.pci.address} shares group {gpu.pci.iommu_group} with {listed}"


def _mates(gpu: PciGpu, asked: Collection[str]) -> str:
    mates = sorted(item.address for item in gpu.group if item.address in asked and item.address != gpu.pci.address)
    return f" with {' and '.join(mates)}, which must go to the same node" if mates else ""
