"""The timer of nightly rebuilds: both units, whose they are, and what they run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from emulator.core.errors import ConflictError, HostNotFitError, UsageError
from emulator.operations.host import program as programs
from emulator.operations.host.autostart import unit_name
from emulator.operations.host.nightly_timer import Timetable, disable_nightly, enable_nightly, unit_names
from emulator.operations.host.program import Program
from tests.support.simulated_world import SimulatedHost, lab_text
from tests.support.waiting import PATIENCE

PROGRAM = Program(Path("/opt/hyper scaler/100%/$bin/hyperscaler"))
TIMER, SERVICE = unit_names("demo")


def enable(host: SimulatedHost, table: Timetable | None = None, program: Program = PROGRAM) -> bool:
    return enable_nightly(host.environment(), host.lab_file(lab_text()), table or Timetable(), program)


def names(host: SimulatedHost) -> list[str]:
    return sorted(str(path.relative_to(host.units)) for path in host.units.rglob("*"))


def test_on_and_off(host: SimulatedHost) -> None:
    assert enable(host)
    assert not enable(host)
    assert names(host) == [SERVICE, TIMER, "timers.target.wants", f"timers.target.wants/{TIMER}"]
    assert disable_nightly(host.environment(), "demo")
    assert not disable_nightly(host.environment(), "demo")
    assert names(host) == []


def test_the_units(host: SimulatedHost) -> None:
    enable(host, Timetable("03:15", 45, (Path("/srv/r.html"), Path("/srv/r.json")), Path("/etc/notify.conf")))
    timer, service = ((host.units / name).read_text().splitlines() for name in (TIMER, SERVICE))
    assert {"OnCalendar=*-*-* 03:15:00", "RandomizedDelaySec=45m", "Persistent=true", f"Unit={SERVICE}"} <= set(timer)
    (command,) = [line for line in service if line.startswith("ExecStart=")]
    assert command.startswith('ExecStart="/opt/hyper scaler/100%%/$bin/hyperscaler" "nightly" "')
    assert command.endswith('"--report" "/srv/r.html" "--report" "/srv/r.json" "--notify" "/etc/notify.conf"')
    assert "KillMode=process" in service
    assert f'Environment="HYPERSCALER_HOME={host.home.root}"' in service


def test_another_time_replaces_the_units(host: SimulatedHost) -> None:
    enable(host)
    assert enable(host, Timetable("04:00"))
    assert "OnCalendar=*-*-* 04:00:00" in (host.units / TIMER).read_text()


@pytest.mark.parametrize("at", ["", "25:00", "2:00", "02:60", "02:00:00", "*:*", "02:00\nUnit=x", "noon"])
def test_a_time_that_is_none_is_refused(host: SimulatedHost, at: str) -> None:
    with pytest.raises(UsageError, match="is no time of the day"):
        enable(host, Timetable(at))
    assert names(host) == []


@pytest.mark.parametrize("name", [TIMER, SERVICE])
def test_units_of_others_are_left_alone(host: SimulatedHost, name: str) -> None:
    (host.units / name).write_text("[Unit]\nDescription=mine\nX-Hyperscaler-Nightly=/elsewhere demo\n")
    with pytest.raises(ConflictError, match="does not belong to this lab"):
        enable(host)
    with pytest.raises(ConflictError, match="does not belong to this lab"):
        disable_nightly(host.environment(), "demo")
    assert names(host) == [name]


def test_no_lab_s_own_unit_has_one_of_the_names() -> None:
    assert not {unit_name(lab) for lab in ("nightly-demo", "nightly", "demo")} & {TIMER, SERVICE}


@pytest.mark.skipif(os.geteuid() != 0, reason="what root would run is root's to refuse")
@pytest.mark.parametrize("what", ["program", "file", "notify"])
def test_what_others_can_change_is_not_run_at_night(
    host: SimulatedHost, tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Path]] = []
    theirs = tmp_path / "theirs"
    theirs.write_text("")

    def exposed(places: object, trees: object) -> tuple[str, ...]:
        asked.append(list(places))  # type: ignore[call-overload]
        return (f"{theirs}: others can write to it",)

    monkeypatch.setattr(programs, "exposed_to_others", exposed)
    with pytest.raises(HostNotFitError, match="root would run every night what others can change") as caught:
        enable(host, Timetable(notify=theirs))
    assert "host enable-nightly" in caught.value.fix
    expected = {"program": PROGRAM.path, "file": host.lab_file(lab_text()).file.absolute(), "notify": theirs}
    assert expected[what] in asked[0]
    assert names(host) == []


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_understands_the_units(host: SimulatedHost, tmp_path: Path) -> None:
    program = tmp_path / "hyperscaler"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    enable(host, program=Program(program))
    done = subprocess.run(
        ["systemd-analyze", "verify", host.units / TIMER, host.units / SERVICE],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "hyperscaler-nightly" in line]
    assert ours == [], done.stderr
