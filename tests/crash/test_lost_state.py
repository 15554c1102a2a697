"""The record is lost or damaged: what is ours is known by its marks, and nothing else is touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable

import pytest

from emulator.apply.journal import VERSION, encode
from emulator.core.errors import HyperscalerError, HypervisorError, StateError, UsageError
from emulator.lab.lab_files import LoadedLab
from emulator.plan.model import Action
from tests.support.simulated_world import SYSTEM_URI, SimulatedHost, comparable, differences, gpu_section, lab_text
from tests.support.stop_points import find_stops, in_sequence

Damage = Callable[[bytes], bytes]


def truncated(content: bytes) -> bytes:
    return content[:-17]


def flipped(content: bytes) -> bytes:
    """One byte in each of five lines, none of them the last."""
    lines = content.split(b"\n")
    for at in range(2, len(lines) - 3, max(1, len(lines) // 5)):
        line = bytearray(lines[at])
        line[len(line) // 2] ^= 0x10
        lines[at] = bytes(line)
    return b"\n".join(lines)


DAMAGES: dict[str, Damage] = {
    "cut off": truncated,
    "bytes flipped": flipped,
    "half is missing": lambda content: content[: len(content) // 2],
    "first half is missing": lambda content: content[len(content) // 2 :],
    "empty": lambda _content: b"",
    "noise": lambda _content: b"\x00\xff{}\n[1,2]\nnull\n",
}


def assert_gone(host: SimulatedHost, before: dict[str, str]) -> None:
    left = differences(comparable(host.save(), images=False), before)
    assert not left


def lab_of(host: SimulatedHost, kind: str) -> LoadedLab:
    if kind == "gpus":
        return host.lab_file(lab_text(hypervisor=SYSTEM_URI, extra=gpu_section()))
    return host.lab_file(lab_text(hypervisor=kind))


@pytest.mark.parametrize("kind", ["embedded", SYSTEM_URI, "gpus"])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_journal(with_gpus: SimulatedHost, name: str, kind: str) -> None:
    host = with_gpus
    before = comparable(host.save(), images=False)
    lab = lab_of(host, kind)
    host.provision(lab)
    journal = host.home.lab("demo").journal
    done = host.save()
    journal.write_bytes(DAMAGES[name](journal.read_bytes()))
    damaged = host.save()
    plan = host.provision(lab).plan
    assert {change.action for change in plan.changes} <= {Action.ADOPT, Action.REPAIR, Action.UPDATE}, plan.changes
    assert host.plan(lab).is_empty
    left = differences(comparable(host.save(), journal=""), comparable(done, journal=""))
    assert not left
    host.destroy()
    assert_gone(host, before)
    host.restore(damaged)
    host.destroy()
    assert_gone(host, before)


@pytest.mark.parametrize("kind", [SYSTEM_URI, "gpus"])
def test_a_lost_directory_is_destroyed_by_marks_alone(with_gpus: SimulatedHost, kind: str) -> None:
    host = with_gpus
    before = comparable(host.save(), images=False)
    lab = lab_of(host, kind)
    host.provision(lab)
    shutil.rmtree(host.home.lab("demo").root)
    lost = host.save()
    host.destroy()
    assert_gone(host, before)
    with pytest.raises(UsageError, match="there is no lab demo"):
        host.destroy()
    host.restore(lost)
    made = host.provision(lab)
    assert all(check.ok for check in made.checks)
    assert host.plan(lab).is_empty
    host.destroy()
    assert_gone(host, before)


def lose_journal_and_location(host: SimulatedHost) -> None:
    host.home.lab("demo").journal.unlink()
    host.home.hypervisor_of("demo").unlink()


def lose_home(host: SimulatedHost) -> None:
    shutil.rmtree(host.home.root)
    host.home.root.mkdir(mode=0o700)


LOSSES: dict[str, Callable[[SimulatedHost], None]] = {
    "journal": lambda host: host.home.lab("demo").journal.unlink(),
    "journal and record of the hypervisor": lose_journal_and_location,
    "directory": lambda host: shutil.rmtree(host.home.lab("demo").root),
    "home": lose_home,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_machines_on_a_libvirt_that_does_not_answer_are_not_forgotten(embedded: SimulatedHost, loss: str) -> None:
    """No record, and nobody to ask: neither `destroy` nor `provision` may take the lab for gone."""
    host = embedded
    before = comparable(host.save(), images=False)
    lab = host.lab_file(lab_text(hypervisor="auto"))
    host.provision(lab)
    assert sum(info.owner is not None for info in host.hypervisor(quiet=True).domains()) == 2
    LOSSES[loss](host)
    host.libvirt_down.touch()
    lost = comparable(host.save())
    with pytest.raises(HypervisorError):
        host.destroy()
    assert differences(comparable(host.save()), lost) == {}
    with pytest.raises(HypervisorError):
        host.plan(lab)
    host.libvirt_down.unlink()
    host.destroy()
    left = differences(comparable(host.save(), images=False), before)
    assert not {name for name in left if not name.startswith("home/labs/demo-2")}


def test_a_lab_that_never_was_is_no_matter_of_a_libvirt_that_does_not_answer(embedded: SimulatedHost) -> None:
    embedded.libvirt_down.touch()
    with pytest.raises(UsageError, match="there is no lab nothing"):
        embedded.destroy("nothing")


def test_a_lost_directory_of_an_embedded_lab(embedded: SimulatedHost) -> None:
    before = comparable(embedded.save(), images=False)
    lab = embedded.lab_file(lab_text())
    embedded.provision(lab)
    shutil.rmtree(embedded.home.lab("demo").root)
    lost = embedded.save()
    embedded.destroy()
    assert_gone(embedded, before)
    embedded.restore(lost)
    embedded.provision(lab)
    assert embedded.plan(lab).is_empty
    embedded.destroy()
    assert_gone(embedded, before)


@pytest.mark.parametrize("command", ["provision", "destroy"])
def test_a_newer_journal_is_refused_and_left_alone(embedded: SimulatedHost, command: str) -> None:
    lab = embedded.lab_file(lab_text())
    embedded.provision(lab)
    journal = embedded.home.lab("demo").journal
    with journal.open("ab") as file:
        file.write(encode({"v": VERSION + 1, "at": 0, "type": "hologram"}))
    before = embedded.save()
    with pytest.raises(StateError, match="newer than this version understands"):
        embedded.provision(lab) if command == "provision" else embedded.destroy()
    assert not differences(comparable(embedded.save()), comparable(before))


def test_a_crash_while_a_damaged_journal_is_rewritten(with_gpus: SimulatedHost) -> None:
    """The believable part of a damaged journal is not lost on the way to a clean one."""
    host = with_gpus
    with in_sequence():
        before = comparable(host.save(), images=False)
        lab = lab_of(host, "gpus")
        host.provision(lab)
        done = comparable(host.save(), journal="")
        journal = host.home.lab("demo").journal
        journal.write_bytes(flipped(journal.read_bytes()))
        stops = find_stops(host, lambda: host.provision(lab))
        for key, machine in stops.states.items():
            where = stops.where(key)
            host.restore(machine)
            host.provision(lab)
            left = differences(comparable(host.save(), journal=""), done)
            assert not left, where
            host.destroy()
            assert differences(comparable(host.save(), images=False), before) == {}, where


def test_a_ledger_that_cannot_be_read_is_never_overwritten(with_gpus: SimulatedHost) -> None:
    host = with_gpus
    lab = lab_of(host, "gpus")
    host.provision(lab)
    ledger = host.home.gpu_owners
    ledger.write_text(json.dumps({"version": 99, "owners": {}}))
    for command in (lambda: host.provision(lab), host.destroy):
        with pytest.raises(HyperscalerError, match="not a GPU ledger of this version"):
            command()
    assert json.loads(ledger.read_text())["version"] == 99


def test_a_lab_without_a_record_stays_on_its_own_hypervisor(embedded: SimulatedHost) -> None:
    """`auto` would take the host's libvirt for a new lab."""
    embedded.provision(embedded.lab_file(lab_text()))
    embedded.home.lab("demo").journal.unlink()
    lab = embedded.lab_file(lab_text(hypervisor="auto"))
    assert {change.action for change in embedded.plan(lab).changes} == {Action.ADOPT}
    embedded.provision(lab)
    assert [info.name for info in embedded.hypervisor(quiet=True).domains() if info.owner] == []


def test_a_destroy_by_marks_alone_can_be_stopped_anywhere(with_gpus: SimulatedHost) -> None:
    host = with_gpus
    with in_sequence():
        before = comparable(host.save(), images=False)
        host.provision(lab_of(host, "gpus"))
        shutil.rmtree(host.home.lab("demo").root)
        stops = find_stops(host, host.destroy)
        for key, machine in stops.states.items():
            host.restore(machine)
            try:
                host.destroy()
            except UsageError:
                assert not host.home.lab("demo").root.exists(), stops.where(key)
            left = differences(comparable(host.save(), images=False), before)
            assert not left, stops.where(key)
        print(f"destroy without a record: {len(stops.names)} stop points, {len(stops.states)} distinct machines")
