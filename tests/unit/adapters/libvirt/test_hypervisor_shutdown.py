"""Powering off a guest: one that is paused goes on first, since it hears nothing."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from emulator.adapters.libvirt import hypervisor
from emulator.adapters.libvirt.errors import load_libvirt
from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor
from emulator.core.errors import HypervisorError
from tests.support.waiting import Clock

libvirt = load_libvirt()
RUNNING, PAUSED, OFF = libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_SHUTOFF


class Guest:
    """A libvirt domain that powers off when it is asked to while it runs."""

    def __init__(self, state: int, reason: int, *, resumes: bool = True) -> None:
        self.seen, self.resumes, self.calls = [state, reason], resumes, list[str]()
        self.works_until = self.cpu = 0.0

    def name(self) -> str:
        return "a"

    def state(self) -> list[int]:
        return self.seen

    def info(self) -> list[int]:
        self.cpu += 0.05 if self.cpu < self.works_until else 0.0
        return [self.seen[0], 0, 0, 1, int(self.cpu * 1e9)]

    def resume(self) -> None:
        self.calls.append("resume")
        if not self.resumes:
            raise libvirt.libvirtError("the disk is still full")
        self.seen = [RUNNING, 0]

    def shutdown(self) -> None:
        self.calls.append("shutdown")
        if self.seen[0] == RUNNING:
            self.seen = [OFF, 0]

    def destroy(self) -> None:
        self.calls.append("destroy")
        self.seen = [OFF, 0]


@pytest.fixture
def power_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[Guest], list[str]]:
    seconds = [0.0]

    def sleep(pause: float) -> None:
        seconds[0] += pause

    monkeypatch.setattr(hypervisor, "time", SimpleNamespace(monotonic=lambda: seconds[0], sleep=sleep))
    monkeypatch.setattr(hypervisor, "_PRESS_AGAIN", 0.3)
    monkeypatch.setattr(hypervisor, "time", Clock())

    def run(guest: Guest) -> list[str]:
        monkeypatch.setattr(LibvirtHypervisor, "_connect", lambda self: None)
        monkeypatch.setattr(LibvirtHypervisor, "_lookup", lambda self, name: guest)
        LibvirtHypervisor("qemu:///system").shutdown_domain("a", timeout=0.5)
        assert guest.seen[0] == OFF
        return guest.calls

    return run


@pytest.mark.parametrize("reason", ["USER", "IOERROR", "UNKNOWN", "WATCHDOG", "FROM_SNAPSHOT"])
def test_a_paused_guest_goes_on_and_is_asked(power_off: Callable[[Guest], list[str]], reason: str) -> None:
    guest = Guest(PAUSED, getattr(libvirt, f"VIR_DOMAIN_PAUSED_{reason}"))
    assert power_off(guest) == ["resume", "shutdown"]


@pytest.mark.parametrize("reason", ["MIGRATION", "SAVE", "DUMP", "SHUTTING_DOWN", "SNAPSHOT", "CRASHED", "POSTCOPY"])
def test_one_that_must_not_go_on_is_not_resumed(power_off: Callable[[Guest], list[str]], reason: str) -> None:
    assert power_off(Guest(PAUSED, getattr(libvirt, f"VIR_DOMAIN_PAUSED_{reason}"))) == ["destroy"]


def test_one_that_cannot_go_on_is_tried_again_until_the_deadline(power_off: Callable[[Guest], list[str]]) -> None:
    guest = Guest(PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR, resumes=False)
    assert power_off(guest) == ["resume", "shutdown", "resume", "shutdown", "destroy"]


def test_a_running_guest_is_only_asked(power_off: Callable[[Guest], list[str]]) -> None:
    assert power_off(Guest(RUNNING, 0)) == ["shutdown"]


class Slow(Guest):
    """A guest that hears, and has work to do before it is off."""

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def info(self) -> list[int]:
        seen = super().info()
        if self.cpu >= self.works_until:
            self.seen = [OFF, 0]
        return seen


def test_one_that_still_works_is_not_switched_off_at_its_usual_time(power_off: Callable[[Guest], list[str]]) -> None:
    """Half a second is its time; it needs about a second, and uses the processor for it."""
    guest = Slow(RUNNING, 0)
    guest.works_until = 0.2
    assert "destroy" not in power_off(guest)


def test_one_that_works_without_end_is_switched_off(power_off: Callable[[Guest], list[str]]) -> None:
    guest = Slow(RUNNING, 0)
    guest.works_until = 1e9
    assert power_off(guest)[-1] == "destroy"


class Mute(Guest):
    """It broke out of QEMU, which lets libvirt wait for an answer for ever; or a call before it still does."""

    def shutdown(self) -> None:
        self.calls.append("shutdown")
        raise HypervisorError("libvirtd has not answered")

    def info(self) -> list[int]:
        self.cpu += 1.0
        return super().info()


def test_one_that_answers_nothing_does_not_keep_its_operator_from_switching_it_off(
    power_off: Callable[[Guest], list[str]],
) -> None:
    assert power_off(Mute(RUNNING, 0))[-1] == "destroy"
