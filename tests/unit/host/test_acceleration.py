"""The choice between KVM and TCG."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from emulator.core.errors import HostNotFitError
from emulator.host.acceleration import AccelerationFacts, decide_acceleration
from emulator.host.checks.processor import check_processor
from emulator.host.checks.result import Level, Wanted
from emulator.host.parsers import parse_processor
from emulator.host.readings import DeviceAnswer
from emulator.labfile.model import Acceleration
from tests.support import host_trees

INTEL = "processor\t: 0\nflags\t\t: fpu vme vmx sse\n"
AMD = "processor\t: 0\nflags\t\t: fpu svm sse\n"
NONE = "processor\t: 0\nmodel name\t: svm vmx\nflags\t\t: fpu vmx_like svmx hypervisor\nvmx flags\t: ept\n"


def facts(cpuinfo: str, *, usable: bool = True, offered: bool | None = True) -> AccelerationFacts:
    kvm = DeviceAnswer.USABLE if usable else DeviceAnswer.BROKEN
    return AccelerationFacts(parse_processor(cpuinfo).virtualisation, kvm, offered)


@pytest.mark.parametrize("cpuinfo", [INTEL, AMD])
@pytest.mark.parametrize("requested", [Acceleration.AUTO, Acceleration.KVM])
def test_kvm_when_all_signs_agree(cpuinfo: str, requested: Acceleration) -> None:
    decision = decide_acceleration(requested, facts(cpuinfo))
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
    decision = decide_acceleration(Acceleration.AUTO, facts(cpuinfo, usable=usable, offered=offered))
    assert not decision.accelerated
    assert decision.warning == (
        f"no hardware virtualisation ({lack}): the guests are emulated and several times slower"
    )
    with pytest.raises(HostNotFitError) as caught:
        decide_acceleration(Acceleration.KVM, facts(cpuinfo, usable=usable, offered=offered))
    assert caught.value.what == f"the lab asks for KVM, but {lack}"
    assert caught.value.fix.endswith("or set hypervisor.acceleration: auto")


def test_tcg_on_request_gives_no_warning() -> None:
    decision = decide_acceleration(Acceleration.TCG, facts(INTEL))
    assert (decision.accelerated, decision.warning) == (False, None)


def test_libvirt_need_not_be_asked() -> None:
    assert decide_acceleration(Acceleration.KVM, facts(INTEL, offered=None)).accelerated


@pytest.mark.parametrize("flag", ["vmx", "svm", None])
@pytest.mark.parametrize("kvm", DeviceAnswer)
@pytest.mark.parametrize("requested", [Acceleration.AUTO, Acceleration.KVM])
def test_the_host_check_and_the_decision_agree(
    tmp_path: Path, flag: str | None, kvm: DeviceAnswer, requested: Acceleration
) -> None:
    host = host_trees.read(host_trees.plant(tmp_path, "intel"))
    flags = frozenset({flag} if flag else ())
    host = replace(host, processor=replace(host.processor, flags=flags), devices={**host.devices, "/dev/kvm": kvm})
    signs = ("cpu.virtualisation", "cpu.kvm")
    found = check_processor(host, Wanted(acceleration=requested))
    levels = {result.level for result in found if result.id in signs}
    try:
        accelerated = decide_acceleration(requested, AccelerationFacts(flag, kvm)).accelerated
    except HostNotFitError:
        assert Level.FAIL in levels
    else:
        assert Level.FAIL not in levels
        assert accelerated == (levels == {Level.PASS})
