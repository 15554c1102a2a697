"""Virtualisation of the processor, KVM, and the kernel's device nodes for guests."""

from __future__ import annotations

from collections.abc import Iterator

from emulator.host.checks.result import HostCheckResult, Level, Wanted, ok
from emulator.host.readings import CpuVendor, DeviceAnswer, HostReadings
from emulator.labfile.model import Acceleration

_SLOW = "without KVM guests are emulated (TCG): labs work, and everything in them takes several times longer"
_MODULES = {CpuVendor.INTEL: "kvm_intel", CpuVendor.AMD: "kvm_amd"}


def check_processor(host: HostReadings, wanted: Wanted) -> Iterator[HostCheckResult]:
    """virt-host-validate's checks of the processor and of device nodes, and nested virtualisation."""
    yield _virtualisation(host, wanted)
    yield _kvm(host, wanted)
    yield _nested(host)
    yield _secure_guest(host)
    yield _vhost_net(host)
    yield _tun(host)


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
            "on the machine that runs this one: modprobe -r kvm_intel; modprobe kvm_intel nested=1 (AMD: kvm_amd), and "
            "give this machine the host's CPU model (<cpu mode='host-passthrough'/>)"
        )
        found = "no vmx or svm flag: this is a virtual machine without nested virtualisation"
    else:
        fix = "switch VT-x (Intel) or SVM (AMD) on in the firmware's settings: systemctl reboot --firmware-setup"
        found = "no vmx or svm flag: switched off in the firmware, or this processor has none"
    return HostCheckResult(id_, title, _missing_kvm(wanted), found, _SLOW, fix)


def _kvm(host: HostReadings, wanted: Wanted) -> HostCheckResult:
    id_, title = "cpu.kvm", "/dev/kvm"
    answer, flag = host.devices["/dev/kvm"], host.processor.virtualisation
    module = _MODULES.get(host.processor.vendor, "kvm_intel")
    level = _missing_kvm(wanted)
    if answer is DeviceAnswer.ABSENT:
        fix = f"modprobe {module}; dmesg | grep kvm tells what is in the way" if flag else "see CPU virtualisation"
        return HostCheckResult(id_, title, level, "absent", _SLOW, fix)
    if answer is DeviceAnswer.REFUSED:
        fix = f"usermod -aG kvm {host.user.name}, then log in again; or run as root"
        return HostCheckResult(id_, title, level, f"there, but {host.user.name} may not open it", _SLOW, fix)
    if answer is DeviceAnswer.BROKEN:
        holder = next((name for name in ("vboxdrv", "vmmon") if name in host.kernel.loaded), None)
        unload = f"{holder} {module}" if holder else module
        fix = f"modprobe -r {unload}; modprobe {module}"
        return HostCheckResult(id_, title, level, "there, but it does not open or does not answer", _SLOW, fix)
    if flag is None:
        return HostCheckResult(
            id_,
            title,
            level,
            "exists and answers, but the processor shows no vmx or svm flag: it is not used",
            "there are virtual machines whose /dev/kvm opens and makes a VM, in which an ordinary kernel hangs; "
            "labs fall back to emulation (TCG) here",
            "see CPU virtualisation",
        )
    return ok(id_, title, "opens and answers", _SLOW)


def _nested(host: HostReadings) -> HostCheckResult:
    id_, title = "cpu.nested", "nested virtualisation"
    why = "a lab in a virtual machine needs it for KVM; no lab runs virtual machines inside of its nodes"
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
    return ok(id_, title, "on" if value in ("1", "Y") else "off, which labs do not mind", why)


def _secure_guest(host: HostReadings) -> HostCheckResult:
    id_, title = "cpu.secure-guest", "secure guests"
    why = "encrypted guests (AMD SEV, Intel TDX) are offered by libvirt where the host has them; no lab asks for them"
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
    why = "the kernel then moves the guests' packets itself; without it QEMU does, and a network is slower"
    answer = host.devices["/dev/vhost-net"]
    if answer is DeviceAnswer.ABSENT:
        return HostCheckResult(id_, title, Level.WARN, "absent", why, "modprobe vhost_net (hyperscaler host prepare)")
    if answer is DeviceAnswer.BROKEN:
        fix = "modprobe -r vhost_net; modprobe vhost_net; dmesg | grep vhost tells what is in the way"
        return HostCheckResult(id_, title, Level.WARN, "there, but it does not open", why, fix)
    return ok(id_, title, "there", why)


def _tun(host: HostReadings) -> HostCheckResult:
    id_, title = "cpu.tun", "/dev/net/tun"
    why = "every guest's network card is a tap device behind it"
    if host.devices["/dev/net/tun"] is DeviceAnswer.ABSENT:
        return HostCheckResult(id_, title, Level.FAIL, "absent", why, "modprobe tun (hyperscaler host prepare)")
    if host.devices["/dev/net/tun"] is DeviceAnswer.BROKEN:
        return HostCheckResult(
            id_, title, Level.FAIL, "there, but it does not open", why, "modprobe tun; dmesg | grep tun"
        )
    return ok(id_, title, "there", why)
