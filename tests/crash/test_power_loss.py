"""The power goes: of what the program wrote only that is left which it fsynced, and the host boots again.

What came of it is recovered from in both directions after each fsync, in the two ways in which disks forget: the names
that were not yet written are gone, or they are there and the files are empty.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emulator.apply.journal import Journal
from emulator.apply.state import StateStore
from emulator.core.errors import UsageError
from tests.support.lossy_disk import LossyDisk
from tests.support.simulated_world import LAB, SimulatedHost, Snapshot, comparable, differences
from tests.support.stop_points import Command, Stops, Sweep, find_stops

MODES: dict[str, Callable[[LossyDisk, Snapshot], Snapshot]] = {
    "names lost": lambda disk, _now: disk.lost(),
    "files empty": lambda disk, now: disk.emptied(now),
}


def power_losses(sweep: Sweep, what: str) -> dict[str, Stops]:
    """As `find_stops`, with the machines that a power loss leaves, by mode; a command is watched once."""
    if what not in sweep.losses:
        start, command = (sweep.initial, sweep.provision) if what == "provision" else (sweep.done, sweep.destroy)
        sweep.host.restore(start)
        sweep.losses[what] = watched(sweep.host, command)
    return sweep.losses[what]


def watched(host: SimulatedHost, command: Command) -> dict[str, Stops]:
    disk = LossyDisk(host.root)
    losses = {mode: Stops() for mode in MODES}
    add = Stops.add

    def lose(name: str, snapshot: Snapshot) -> None:
        for mode, left in MODES.items():
            add(losses[mode], name, left(disk, snapshot))

    def note(stops: Stops, name: str, snapshot: Snapshot) -> None:
        if not name.startswith("within"):
            lose(name, snapshot)
        add(stops, name, snapshot)

    with disk.watched(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(Stops, "add", note)
        find_stops(host, command)
        lose("after the command", host.save())
    assert disk.synced > 15
    return losses


def rebooted(sweep: Sweep, machine: Snapshot) -> None:
    sweep.host.restore(machine)
    sweep.host.reboot()
    if sweep.name == "gpus":
        with sweep.host.gpus().store.change():
            pass  # the GPUs notice the reboot when they are looked at; now, so that all machines compare


def without_boot(snapshot: Snapshot, **options: object) -> dict[str, str]:
    facts = comparable(snapshot, **options)  # type: ignore[arg-type]
    facts.pop("machine/boot_id")
    return facts


@pytest.mark.parametrize("what", ["provision", "destroy"])
def test_a_power_loss_anywhere_is_recovered_from(sweep: Sweep, what: str) -> None:
    """Both ways to forget leave the same machine where nothing was under way; it is recovered from once."""
    host = sweep.host
    rebooted(sweep, sweep.initial)
    before = without_boot(host.save(), images=False)
    rebooted(sweep, sweep.done)
    sweep.provision()
    done = without_boot(host.save(), journal="state")
    losses = power_losses(sweep, what)
    machines = {key: (mode, machine) for mode, found in losses.items() for key, machine in found.states.items()}
    for key, (mode, machine) in machines.items():
        where = f"after a power loss {losses[mode].where(key)} ({what}, {mode})"
        rebooted(sweep, machine)
        stopped = host.save()
        sweep.provision()
        left = differences(without_boot(host.save(), journal="state"), done)
        assert {name for name in left if "damaged" not in name} == set(), f"provisioned {where}: {left}"
        assert host.plan(sweep.lab).is_empty, where
        host.restore(stopped)
        try:
            sweep.destroy()
        except UsageError:
            assert not host.home.lab(LAB).root.exists(), where
        assert differences(without_boot(host.save(), images=False), before) == {}, f"destroyed {where}"
    for mode, found in losses.items():
        print(f"{sweep.name}: {what}, {mode}: {len(found.names)} power losses, {len(found.states)} distinct machines")
        assert set(found.keys) == set(found.states) <= set(machines) and len(found.names) > 60


def test_no_effect_outlives_a_power_loss_without_its_record(sweep: Sweep) -> None:
    """The journal is written ahead also where the disk forgets: what of the lab is on the host, is on record."""
    losses = power_losses(sweep, "provision")["names lost"]
    seen = 0
    for key, machine in losses.states.items():
        sweep.host.restore(machine)
        state = StateStore(Journal(sweep.host.home.lab(LAB).journal), boot_id="b").state
        hypervisor = sweep.host.hypervisor(None if sweep.name == "gpus" else sweep.host.home.lab(LAB), quiet=True)
        if sweep.name != "gpus" and not sweep.host.home.lab(LAB).hypervisor.is_dir():
            continue
        owners = [item.owner for item in hypervisor.domains()] + [item.owner for item in hypervisor.networks()]
        for owner in owners:
            if owner is not None and owner.lab == LAB:
                seen += 1
                assert owner.resource_id in state.resources, losses.where(key)
    assert seen > 10


def test_a_finished_command_is_on_the_disk(sweep: Sweep) -> None:
    """Once a command has said that it is done, a power loss takes nothing back."""
    for what, end in (("provision", sweep.done), ("destroy", sweep.initial)):
        losses = power_losses(sweep, what)["names lost"]
        assert losses.names[-1] == "after the command"
        last = losses.states[losses.keys[-1]]
        facts, wanted = (without_output(comparable(item, images=False, journal="state")) for item in (last, end))
        assert differences(facts, wanted) == {}


def without_output(facts: dict[str, str]) -> dict[str, str]:
    """`output/` is written for people, from the record and after every run."""
    return {name: text for name, text in facts.items() if "/output" not in name}
