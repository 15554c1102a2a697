"""The signs of KVM, read from the host."""

from __future__ import annotations

from pathlib import Path

from emulator.adapters.system.acceleration import capabilities_offer_kvm, read_acceleration_facts
from emulator.host.acceleration import AccelerationFacts
from emulator.host.readings import DeviceAnswer

AMD = "processor\t: 0\nflags\t\t: fpu svm sse\n"


def test_a_device_that_is_no_kvm_is_not_usable(tmp_path: Path) -> None:
    fake = tmp_path / "kvm"
    fake.write_text("")
    (tmp_path / "cpuinfo").write_text(AMD)
    facts = read_acceleration_facts(cpuinfo=tmp_path / "cpuinfo", device=fake)
    assert facts == AccelerationFacts("svm", DeviceAnswer.BROKEN)
    facts = read_acceleration_facts(cpuinfo=tmp_path / "absent", device=tmp_path / "absent")
    assert facts == AccelerationFacts(None, DeviceAnswer.ABSENT)


def test_capabilities() -> None:
    arch = "<capabilities><guest><arch name='{}'><domain type='qemu'/>{}</arch></guest></capabilities>"
    assert capabilities_offer_kvm(arch.format("x86_64", "<domain type='kvm'/>"))
    assert not capabilities_offer_kvm(arch.format("x86_64", ""))
    assert not capabilities_offer_kvm(arch.format("aarch64", "<domain type='kvm'/>"))
    assert not capabilities_offer_kvm("no xml")
