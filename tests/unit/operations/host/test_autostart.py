"""Labs that come back with the machine: the unit, and that it goes with the lab."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest

from emulator.adapters.system.process import HostProcess
from emulator.adapters.system.systemd_units import SystemdUnits
from emulator.core.errors import ConflictError, HostNotFitError, UsageError
from emulator.core.hypervisors import EMBEDDED
from emulator.core.paths import Home
from emulator.core.progress import SilentReporter
from emulator.core.stop import StopFlag
from emulator.operations.destroy import destroy
from emulator.operations.host.autostart import disable_autostart, enable_autostart, quoted, unit_name, unit_text
from emulator.operations.host.program import Program
from emulator.operations.status import lab_status
from tests.support.simulated_world import SYSTEM_URI, SimulatedHost, lab_text
from tests.support.stop_points import find_stops, in_sequence
from tests.support.waiting import PATIENCE

PROGRAM = Program(Path("/opt/hyper scaler/100%/$bin/hyperscaler"))
QUIET = SilentReporter()
UNIT = "hyperscaler-demo.service"


def names(host: SimulatedHost) -> list[str]:
    return sorted(str(path.relative_to(host.units)) for path in host.units.rglob("*"))


def test_on_and_off(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    assert enable_autostart(host.environment(), "demo", PROGRAM, QUIET)
    assert not enable_autostart(host.environment(), "demo", PROGRAM, QUIET)
    assert names(host) == [UNIT, "multi-user.target.wants", f"multi-user.target.wants/{UNIT}"]
    assert (host.units / "multi-user.target.wants" / UNIT).resolve() == host.units / UNIT
    assert lab_status(host.environment(), "demo").autostart
    assert disable_autostart(host.environment(), "demo", QUIET)
    assert not disable_autostart(host.environment(), "demo", QUIET)
    assert names(host) == []
    assert not lab_status(host.environment(), "demo").autostart


def test_destroy_takes_the_unit_along_also_without_the_lab_s_directory(host: SimulatedHost) -> None:
    for lose in (False, True):
        host.provision(host.lab_file(lab_text()))
        enable_autostart(host.environment(), "demo", PROGRAM, QUIET)
        if lose:
            shutil.rmtree(host.home.lab("demo").root)
        host.destroy()
        assert names(host) == []


def test_a_unit_alone_is_enough_to_destroy(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    enable_autostart(host.environment(), "demo", PROGRAM, QUIET)
    kept = (host.units / UNIT).read_text()
    host.destroy()
    (host.units / UNIT).write_text(kept)
    host.destroy()
    assert names(host) == []
    with pytest.raises(UsageError, match="no lab demo"):
        host.destroy()


def test_a_foreign_unit_is_left_alone(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    (host.units / UNIT).write_text("[Unit]\nDescription=mine\n")
    with pytest.raises(ConflictError, match="does not belong to this lab"):
        enable_autostart(host.environment(), "demo", PROGRAM, QUIET)
    with pytest.raises(ConflictError, match="does not belong to this lab"):
        disable_autostart(host.environment(), "demo", QUIET)
    destroy(host.environment(), "demo", QUIET, StopFlag(), confirm=lambda _plan: True)
    assert names(host) == [UNIT]


def test_a_lab_that_was_never_made_is_refused(host: SimulatedHost) -> None:
    with pytest.raises(UsageError, match="no lab demo"):
        enable_autostart(host.environment(), "demo", PROGRAM, QUIET)
    assert names(host) == []


def test_a_stop_between_any_two_steps_is_gone_on_from(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that could not be made, then a unit that is there without it."""
    host.provision(host.lab_file(lab_text()))

    def stopped(*_rest: object, **_options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "symlink_to", stopped)
        with pytest.raises(KeyboardInterrupt):
            enable_autostart(host.environment(), "demo", PROGRAM, QUIET)
    assert names(host) == [UNIT, "multi-user.target.wants"]
    assert enable_autostart(host.environment(), "demo", PROGRAM, QUIET)
    assert f"multi-user.target.wants/{UNIT}" in names(host)


@pytest.mark.parametrize("hypervisor", [EMBEDDED, SYSTEM_URI])
def test_a_destroy_that_is_cut_off_does_not_come_back_with_the_machine(host: SimulatedHost, hypervisor: str) -> None:
    """Whatever is still there, the unit is not: nothing rebuilds a lab whose end was asked for."""
    with in_sequence():
        host.provision(host.lab_file(lab_text(hypervisor=hypervisor)))
        enable_autostart(host.environment(), "demo", PROGRAM, QUIET)
        whole = {name for name in host.save() if name.startswith("home/labs/demo/disks/")}
        stops = find_stops(host, host.destroy)
    gone = stops.names.index("after units.remove")
    taking = [
        number for number, name in enumerate(stops.names) if name.startswith(("before delete_", "before daemon.st"))
    ]
    assert gone < min(taking)
    for key in stops.keys[gone:]:
        assert not [name for name in stops.states[key] if name.startswith("machine/units/")]
    for key in stops.keys[:gone]:
        assert whole <= stops.states[key].keys()


def test_a_host_without_systemd_says_so(tmp_path: Path) -> None:
    units = SystemdUnits(HostProcess(), tmp_path / "nothing", tmp_path / "none")
    with pytest.raises(HostNotFitError, match="no systemd"):
        units.enable(UNIT, "")
    units.remove(UNIT)


@pytest.mark.parametrize(
    ("word", "written"),
    [("/a b", '"/a b"'), ('a"b\\c', '"a\\"b\\\\c"'), ("100%", '"100%%"'), ("$HOME", '"$$HOME"'), ("é", '"é"')],
)
def test_words_are_quoted(word: str, written: str) -> None:
    assert quoted(word) == written


def test_an_environment_keeps_its_dollars_and_control_characters_are_refused() -> None:
    assert quoted("A=$b", variables=False) == '"A=$b"'
    with pytest.raises(UsageError, match="systemd unit"):
        quoted("/a\nExecStart=/bin/sh")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("hypervisor", [EMBEDDED, SYSTEM_URI])
def test_systemd_itself_reads_the_unit(host: SimulatedHost, tmp_path: Path, hypervisor: str) -> None:
    program = tmp_path / "a $b 5%" / "hyperscaler"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / unit_name("demo")
    unit.write_text(unit_text(host.environment(), "demo", program, hypervisor))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if unit.name in line]
    assert complaints == []


def test_no_path_makes_the_next_line_its_own(host: SimulatedHost) -> None:
    """systemd joins a line that ends in a backslash to the one after it, which is `Wants=` and `After=` here."""
    env = dataclasses.replace(host.environment(), home=Home(host.root / "odd\\"))
    lines = unit_text(env, "demo", PROGRAM.path, EMBEDDED).splitlines()
    assert not any(line.endswith("\\") for line in lines), lines
    assert "Wants=network-online.target" in lines


def test_nothing_else_of_the_boot_waits_for_the_verification(host: SimulatedHost) -> None:
    """A target waits until what it wants is started, and a oneshot is started when it ends."""
    text = unit_text(host.environment(), "demo", PROGRAM.path, EMBEDDED)
    assert "Type=exec\nRemainAfterExit=yes\n" in text
