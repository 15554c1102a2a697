"""The choice between KVM and TCG."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.adapters.system.acceleration import (
    capabilities_offer_kvm,
    decide_acceleration,
    read_acceleration_facts,
)
from emulator.core.errors import HostNotFitError
from emulator.labfile.model import Acceleration

INTEL = "processor\t: 0\nflags\t\t: fpu vme vmx sse\n"
AMD = "processor\t: 0\nflags\t\t: fpu svm sse\n"
NONE = "processor\t: 0\nmodel name\t: svm vmx\nflags\t\t: fpu vmx_like svmx hypervisor\nvmx flags\t: ept\n"


@pytest.mark.parametrize("cpuinfo", [INTEL, AMD])
@pytest.mark.parametrize("requested", [Acceleration.AUTO, Acceleration.KVM])
def test_kvm_when_all_signs_agree(cpuinfo: str, requested: Acceleration) -> None:
    decision = decide_acceleration(requested, cpuinfo=cpuinfo, kvm_usable=True, libvirt_offers_kvm=True)
    assert decision.accelerated
    assert decision.warning is None
    assert "agree" in decision.reason


@pytest.mark.parametrize(
    ("cpuinfo", "usable", "offered", "lack"),
    [
        (NONE, True, True, "the CPU shows no vmx or svm flag"),
        ("", True, True, "the CPU shows no vmx or svm flag"),
        (INTEL, False, True, "/dev/kvm cannot be used"),
        (AMD, True, False, "libvirt does not offer KVM"),
        (NONE, False, False, "the CPU shows no vmx or svm flag"),
    ],
)
def test_any_missing_sign_means_tcg_or_an_error(cpuinfo: str, usable: bool, offered: bool, lack: str) -> None:
    decision = decide_acceleration(Acceleration.AUTO, cpuinfo=cpuinfo, kvm_usable=usable, libvirt_offers_kvm=offered)
    assert not decision.accelerated
    assert decision.warning == (
        f"no hardware virtualisation ({lack}): the guests are emulated and several times slower"
    )
    with pytest.raises(HostNotFitError) as caught:
        decide_acceleration(Acceleration.KVM, cpuinfo=cpuinfo, kvm_usable=usable, libvirt_offers_kvm=offered)
    assert caught.value.what == f"the lab asks for KVM, but {lack}"
    assert caught.value.fix.endswith("or set hypervisor.acceleration: auto")


def test_tcg_on_request_gives_no_warning() -> None:
    decision = decide_acceleration(Acceleration.TCG, cpuinfo=INTEL, kvm_usable=True, libvirt_offers_kvm=True)
    assert (decision.accelerated, decision.warning) == (False, None)


def test_a_device_that_is_no_kvm_is_not_usable(tmp_path: Path) -> None:
    fake = tmp_path / "kvm"
    fake.write_text("")
    (tmp_path / "cpuinfo").write_text(AMD)
    facts = read_acceleration_facts(cpuinfo=tmp_path / "cpuinfo", device=fake)
    assert (facts.cpuinfo, facts.kvm_usable) == (AMD, False)
    facts = read_acceleration_facts(cpuinfo=tmp_path / "absent", device=tmp_path / "absent")
    assert (facts.cpuinfo, facts.kvm_usable) == ("", False)


def test_capabilities() -> None:
    arch = "<capabilities><guest><arch name='{}'><domain type='qemu'/>{}</arch></guest></capabilities>"
    assert capabilities_offer_kvm(arch.format("x86_64", "<domain type='kvm'/>"))
    assert not capabilities_offer_kvm(arch.format("x86_64", ""))
    assert not capabilities_offer_kvm(arch.format("aarch64", "<domain type='kvm'/>"))
    assert not capabilities_offer_kvm("no xml")
