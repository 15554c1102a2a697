"""The processor's architecture and virtualisation, KVM, and the kernel's device nodes for guests."""

from __future__ import annotations

from collections.abc import Iterator

from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.platform import foreign_architecture
from emulator.host.readings import CpuVendor, DeviceAnswer, HostReadings
from emulator.labfile.model import Acceleration

_SLOW = "without KVM guests are emulated (TCG): labs work, and everything in them takes several times longer"
_MODULES = {CpuVendor.INTEL: "kvm_intel", CpuVendor.AMD: "kvm_amd"}


def check_processor(host: HostReadings, wanted: Wanted) -> Iterator[HostCheckResult]:
    """virt-host-validate's checks of the processor and of device nodes, and nested virtualisation."""
    yield check_architecture(host)
    yield _virtualisation(host, wanted)
    yield _kvm(host, wanted)
    yield _nested(host)
    yield _secure_guest(host)
    yield _vhost_net(host)
    yield _tun(host)


def check_architecture(host: HostReadings) -> HostCheckResult:
    """A failure on every architecture but x86-64, where no other check makes sense."""
    id_, title = "cpu.architecture", "architecture"
    why = "golden images, kernels and virtual machines of labs are x86-64, and so are the drivers for real GPUs"
    foreign = foreign_architecture(host.architecture)
    if foreign:
        fix = "use an x86-64 host; here `hyperscaler validate` and `hyperscaler gpu plan` work"
        return HostCheckResult(id_, title, Level.FAIL, f"{foreign}, and labs need an x86-64 host", why, fix)
    return ok(id_, title, "x86-64" if host.architecture else "unknown, taken to be x86-64", why)


def _missing_kvm(wanted: Wanted) -> Level:
    return Level.FAIL if wanted.acceleration is Acceleration.KVM else Level.WARN


def _virtualisation(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "cpu.virtualisation", "CPU virtualisation"
    names = {"vmx": "Intel VT-x (vmx)", "svm": "AMD-V (svm)"}
    flag = host.processor.virtualisation
    if flag is not None:
        return ok(id_, title, names[flag], _SLOW)
    if host.processor.is_guest:
        fix = (
            "on the host of this virtual machine: modprobe -r kvm_intel; modprobe kvm_intel nested=1 (AMD: kvm_amd), "
            "and give this one the host's CPU model (<cpu mode='host-passthrough'/>)"
        )
        found = "no vmx or svm flag: this is a virtual machine without nested virtualisation"
    else:
        fix = "switch VT-x (Intel) or SVM (AMD) on in the firmware: systemctl reboot --firmware-setup"
        found = "no vmx or svm flag: switched off in the firmware, or not supported by this processor"
    return HostCheckResult(id_, title, _missing_kvm(wanted), found, _SLOW, fix)


def _kvm(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "cpu.kvm", "/dev/kvm"
    answer, flag = host.devices["/dev/kvm"], host.processor.virtualisation
    module = _MODULES.get(host.processor.vendor, "kvm_intel")
    level = _missing_kvm(wanted)
    if answer is DeviceAnswer.ABSENT:
        fix = f"modprobe {module}; dmesg | grep kvm shows the reason" if flag else "see CPU virtualisation"
        return HostCheckResult(id_, title, level, "absent", _SLOW, fix)
    if answer is DeviceAnswer.REFUSED:
        fix = f"usermod -aG kvm {host.user.name}, then log in again; or run as root"
        return HostCheckResult(id_, title, level, f"exists, but {host.user.name} may not open it", _SLOW, fix)
    if answer is DeviceAnswer.BROKEN:
        holder = next((name for name in ("vboxdrv", "vmmon") if name in host.kernel.loaded), None)
        unload = f"{holder} {module}" if holder else module
        fix = f"modprobe -r {unload}; modprobe {module}"
        return HostCheckResult(id_, title, level, "exists, but does not open or does not answer", _SLOW, fix)
    if flag is None:
        return HostCheckResult(
            id_,
            title,
            level,
            "exists and answers, but the processor shows no vmx or svm flag: it is not used",
            "in some virtual machines /dev/kvm opens and makes a VM, but an ordinary kernel hangs in it; "
            "labs fall back to emulation (TCG) here",
            "see CPU virtualisation",
        )
    return ok(id_, title, "opens and answers", _SLOW)


def _nested(host: HostReadings) -> HostCheckResult:
    id_, title = "cpu.nested", "nested virtualisation"
    why = "a lab in a virtual machine needs it for KVM; labs run no virtual machines inside their nodes"
    values = [host.kernel.parameters.get(f"{module}/nested") for module in _MODULES.values()]
    value = next((value for value in values if value is not None), None)
    if host.processor.is_guest:
        if host.processor.virtualisation:
            return ok(id_, title, "this is a virtual machine, and its host lets it run others", why)
        return HostCheckResult(
            id_,
            title,
            Level.WARN,
            "this is a virtual machine, and its host does not let it run others",
            why,
            "see CPU virtualisation",
        )
    if value is None:
        return ok(id_, title, "KVM is not loaded", why)
    return ok(id_, title, "on" if value in ("1", "Y") else "off; labs do not need it", why)


def _secure_guest(host: HostReadings) -> HostCheckResult:
    id_, title = "cpu.secure-guest", "secure guests"
    why = "libvirt offers encrypted guests (AMD SEV, Intel TDX) where the host has them; labs do not use them"
    flags, parameters = host.processor.flags, host.kernel.parameters
    if parameters.get("kvm_intel/tdx") in ("1", "Y"):
        return ok(id_, title, "Intel TDX", why)
    if "sev" not in flags:
        return ok(id_, title, "none offered, none needed", why)
    if parameters.get("kvm_amd/sev") in ("1", "Y"):
        return ok(id_, title, "AMD SEV", why)
    return ok(id_, title, "the processor has AMD SEV, the kernel does not use it (kvm_amd.sev=1 would)", why)


def _vhost_net(host: HostReadings) -> HostCheckResult:
    id_, title = "cpu.vhost-net", "/dev/vhost-net"
    why = "with it the kernel moves guests' packets; without it QEMU does, and networks are slower"
    answer = host.devices["/dev/vhost-net"]
    if answer is DeviceAnswer.ABSENT:
        return HostCheckResult(id_, title, Level.WARN, "absent", why, "modprobe vhost_net (hyperscaler host prepare)")
    if answer is DeviceAnswer.BROKEN:
        fix = "modprobe -r vhost_net; modprobe vhost_net; dmesg | grep vhost shows the reason"
        return HostCheckResult(id_, title, Level.WARN, "exists, but does not open", why, fix)
    return ok(id_, title, "there", why)


def _tun(host: HostReadings) -> HostCheckResult:
    id_, title = "cpu.tun", "/dev/net/tun"
    why = "every guest's network card is a tap device, made through it"
    if host.devices["/dev/net/tun"] is DeviceAnswer.ABSENT:
        return HostCheckResult(id_, title, Level.FAIL, "absent", why, "modprobe tun (hyperscaler host prepare)")
    if host.devices["/dev/net/tun"] is DeviceAnswer.BROKEN:
        return HostCheckResult(
            id_, title, Level.FAIL, "exists, but does not open", why, "modprobe tun; dmesg | grep tun"
        )
    return ok(id_, title, "there", why)
