"""Stopped at each call of an adapter, on a real private libvirtd: a lab of two tiny guests goes on and goes away.

The sweep on simulated adapters (`tests/crash`) stops at more places; this one shows that libvirtd, QEMU, dnsmasq and
the kernel's namespaces do as their stand-ins.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulator.adapters.embedded.hypervisor import EmbeddedHypervisor
from emulator.adapters.libvirt.hypervisor import LibvirtHypervisor
from emulator.adapters.system.process import HostProcess
from emulator.core.errors import UsageError
from tests.support.real_lab import RealLab, host_traces
from tests.support.stop_points import PowerCut, in_sequence

pytestmark = pytest.mark.host

LOOKS = (
    "presence",
    "domains",
    "networks",
    "domain",
    "network",
    "overlay_base",
    "size_gib",
    "close",
    "guest_command",
    "table",
    "services",
)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[RealLab]:
    made = RealLab(tmp_path, f"sweep{os.getpid()}")
    before = host_traces(tmp_path, made.namespace)
    with in_sequence():
        try:
            yield made
        finally:
            made.hook.before = made.hook.after = lambda _name: None
            with contextlib.suppress(UsageError):  # it is gone already
                made.destroy()
            made.close()
    assert host_traces(tmp_path, made.namespace) == before


class Stopper:
    """Counts the places before and after each call that changes something, and ends the command at one of them."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number
        self.names: list[str] = []

    def run(self, lab: RealLab, command: Callable[[], object]) -> str:
        """The place where the command was ended; empty when it came to its end."""
        lab.hook.before = lambda name: self._step(f"before {name}", name)
        lab.hook.after = lambda name: self._step(f"after {name}", name)
        try:
            command()
        except PowerCut:
            return self.names[-1]
        finally:
            lab.hook.before = lab.hook.after = lambda _name: None
        return ""

    def _step(self, place: str, name: str) -> None:
        if self.number is not None and len(self.names) > self.number:
            raise PowerCut  # the command is over; nothing of it reaches the host any more
        if not name.partition(".")[2].startswith(LOOKS):
            self.names.append(place)
            if len(self.names) - 1 == self.number:
                raise PowerCut


def test_a_real_lab_stopped_at_any_effect_goes_on_and_goes_away(lab: RealLab) -> None:
    provisioning, destroying = Stopper(), Stopper()
    assert provisioning.run(lab, lab.provision) == ""
    done = domains(lab)
    assert destroying.run(lab, lab.destroy) == ""
    empty = host_traces(lab.root, lab.namespace)
    recovered = 0
    for number, name in enumerate(provisioning.names):
        assert Stopper(number).run(lab, lab.provision) == name
        if number % 2 == 0:  # half of the stops are gone on from, and all are cleaned up after
            lab.provision()
            assert domains(lab) == done, f"provisioned after a stop {name}"
            assert lab.plan().is_empty, name
        destroyed(lab, empty, name)
        recovered += 1
    for number, name in enumerate(destroying.names):
        lab.provision()
        assert Stopper(number).run(lab, lab.destroy) == name
        if number % 2 == 1:
            lab.provision()
            assert domains(lab) == done, f"provisioned after a stop {name} of destroy"
        destroyed(lab, empty, f"{name} of destroy")
        recovered += 1
    total = len(provisioning.names) + len(destroying.names)
    print(f"{recovered} of {total} stop points on a real libvirtd: {provisioning.names + destroying.names}")
    assert recovered == total > 30


def destroyed(lab: RealLab, empty: dict[str, object], where: str) -> None:
    try:
        lab.destroy()
    except UsageError:
        assert not lab.paths.root.exists()
    assert host_traces(lab.root, lab.namespace) == empty, f"destroyed after a stop {where}"


def domains(lab: RealLab) -> list[tuple[str, str, str]]:
    """Name, UUID and state of all domains, and the networks: what libvirtd itself says."""
    connection = LibvirtHypervisor(EmbeddedHypervisor(lab.paths.hypervisor, lab.namespace, HostProcess()).uri())
    try:
        networks = [(info.name, str(info.uuid), str(info.active)) for info in connection.networks()]
        return sorted([(info.name, str(info.uuid), info.state.value) for info in connection.domains()] + networks)
    finally:
        connection.close()
