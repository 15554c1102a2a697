"""Whether guests run on KVM: decided from signs that must agree, never assumed."""

from __future__ import annotations

from dataclasses import dataclass

from emulator.core.errors import HostNotFitError
from emulator.host.readings import DeviceAnswer
from emulator.labfile.model import Acceleration


@dataclass(frozen=True, slots=True)
class AccelerationDecision:
    """Whether guests run on KVM, and why.

    Attributes:
        accelerated: KVM; otherwise QEMU emulates the processor (TCG).
        reason: what decided it.
        warning: one line for the user; None when all is well.
    """

    accelerated: bool
    reason: str = ""
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class AccelerationFacts:
    """The signs that this host shows.

    Attributes:
        flag: the processor's flag for virtualisation, `vmx` or `svm`.
        kvm: what opening `/dev/kvm` gave.
        libvirt_offers_kvm: whether libvirt lists KVM in its capabilities; None when it was not asked.
    """

    flag: str | None
    kvm: DeviceAnswer
    libvirt_offers_kvm: bool | None = None


def decide_acceleration(requested: Acceleration, facts: AccelerationFacts) -> AccelerationDecision:
    """KVM only when all signs agree, else TCG with one warning.

    The processor's flag decides first: there are hosts (virtual machines mostly) where /dev/kvm opens, creates a VM and
    is offered by libvirt, and a guest kernel still hangs, because the processor has no virtualisation. libvirt's
    own virt-host-validate asks for the flag first, too. libvirt need not be asked: the embedded one may not run yet,
    and all that it reports is that QEMU was built with KVM and /dev/kvm opens.

    Raises:
        HostNotFitError: `requested` is kvm and a sign is missing.
    """
    if requested is Acceleration.TCG:
        return AccelerationDecision(accelerated=False, reason="the lab file asks for TCG")
    missing = _missing_sign(facts)
    if missing is None:
        return AccelerationDecision(accelerated=True, reason=f"CPU flag {facts.flag} and /dev/kvm agree")
    lack, fix = missing
    if requested is Acceleration.KVM:
        raise HostNotFitError(
            f"the lab asks for KVM, but {lack}",
            where="hypervisor.acceleration",
            fix=f"{fix}; or set hypervisor.acceleration: auto",
        )
    warning = f"no hardware virtualisation ({lack}): the guests are emulated and several times slower"
    return AccelerationDecision(accelerated=False, reason=lack, warning=warning)


def _missing_sign(facts: AccelerationFacts) -> tuple[str, str] | None:
    """The first sign that speaks against KVM, and how to fix it."""
    if facts.flag is None:
        return (
            "the CPU shows no vmx or svm flag",
            "switch virtualisation on in the firmware, or nested virtualisation on for this machine",
        )
    if facts.kvm is not DeviceAnswer.USABLE:
        return (
            "/dev/kvm cannot be used",
            "modprobe kvm_intel (or kvm_amd), and make sure that /dev/kvm can be read and written",
        )
    if facts.libvirt_offers_kvm is False:
        return (
            "libvirt does not offer KVM",
            "virsh capabilities | grep \"domain type='kvm'\"; libvirtd's log has the reason",
        )
    return None
