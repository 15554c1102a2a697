"""What the simulated adapters do beyond the contract: memory on disk, faults, reboots, guests that answer."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from uuid import uuid4

import pytest

from emulator.adapters.simulated.calls import CallHook
from emulator.adapters.simulated.disks import SimulatedDisks
from emulator.adapters.simulated.guests import Answer, SimulatedShell
from emulator.adapters.simulated.hypervisor import SimulatedHypervisor
from emulator.core.errors import CommandError, ConflictError
from emulator.core.ports import DomainState, GuestAddress
from emulator.guests.ssh import host_keys_from_console
from tests.support.tiny_guest import TinyGuests

GUEST = GuestAddress("n1", IPv4Address("192.168.90.11"), "root")


@pytest.fixture
def guests(tmp_path: Path) -> TinyGuests:
    (tmp_path / "base").write_bytes(b"image")
    return TinyGuests.prepare(tmp_path / "lab")


def running(hypervisor: SimulatedHypervisor, guests: TinyGuests) -> None:
    disk = guests.root / "a.qcow2"
    SimulatedDisks().create_overlay(disk, base=guests.root.parent / "base", size_gib=1)
    hypervisor.define_network(guests.network())
    hypervisor.define_domain(guests.domain("a", disk=disk))
    hypervisor.start_domain("a")


def test_the_state_is_there_for_the_next_command(guests: TinyGuests, tmp_path: Path) -> None:
    running(SimulatedHypervisor(tmp_path / "s.json"), guests)
    again = SimulatedHypervisor(tmp_path / "s.json")
    assert [info.state for info in again.domains()] == [DomainState.RUNNING]
    again.reboot_host()
    third = SimulatedHypervisor(tmp_path / "s.json")
    assert [info.state for info in third.domains()] == [DomainState.SHUTOFF]
    assert [info.active for info in third.networks()] == [False]


def test_foreign_objects_have_no_owner_and_keep_their_names(guests: TinyGuests) -> None:
    hypervisor = SimulatedHypervisor()
    hypervisor.seed_foreign_domain("a", uuid4(), mac="52:54:00:00:00:01")
    hypervisor.seed_foreign_network("other", uuid4(), bridge="hsbr0")
    info = hypervisor.domain("a")
    assert info is not None
    assert (info.owner, info.macs) == (None, ("52:54:00:00:00:01",))
    with pytest.raises(ConflictError):
        hypervisor.define_domain(guests.domain("a", disk=Path("/d")))
    with pytest.raises(ConflictError, match="hsbr0"):
        hypervisor.define_network(guests.network())


def test_an_error_before_a_call_prevents_it_and_one_after_does_not(guests: TinyGuests) -> None:
    def fail(name: str) -> None:
        if name == "define_network":
            raise RuntimeError("cut")

    hook = CallHook(before=fail)
    hypervisor = SimulatedHypervisor(hook=hook)
    with pytest.raises(RuntimeError):
        hypervisor.define_network(guests.network())
    assert hypervisor.networks() == ()
    hook.before, hook.after = lambda _: None, fail
    with pytest.raises(RuntimeError):
        hypervisor.define_network(guests.network())
    assert len(hypervisor.networks()) == 1
    assert hook.counts == {"define_network": 2, "networks": 2}


def test_guests_answer_while_their_domain_runs(guests: TinyGuests) -> None:
    hypervisor = SimulatedHypervisor()
    answers = (Answer("sinfo.*", "idle\n"), Answer("hostname", "n2\n", node="n2"), Answer("false", returncode=1))
    shell = SimulatedShell(hypervisor, answers)
    assert not shell.ready(GUEST, timeout=1)
    running(hypervisor, guests)
    assert shell.ready(GUEST, timeout=1)
    assert shell.run(GUEST, "sinfo -h", timeout=1).stdout == "idle\n"
    assert shell.run(GUEST, "hostname", timeout=1, check=False).returncode == 127
    with pytest.raises(CommandError, match="exit status 1"):
        shell.run(GUEST, "false", timeout=1)
    console = (guests.root / "a.log").read_text()
    assert len(host_keys_from_console(console)) == 1
    hypervisor.set_state("a", DomainState.CRASHED)
    with pytest.raises(CommandError, match="No route to host"):
        shell.run(GUEST, "sinfo", timeout=1)
