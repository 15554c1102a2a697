"""The host's record of commands: who, what and how it ended, also of those that were killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.apply.audit import AuditLog
from emulator.cli.render.history import history_text
from emulator.core.errors import ConfigureError, StateError
from emulator.core.progress import SilentReporter
from emulator.operations.history import CUT_OFF, RUNNING, history
from tests.support import simulated_world
from tests.support.simulated_world import SimulatedHost, lab_text
from tests.support.waiting import PATIENCE


class Warnings(SilentReporter):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_a_lab_s_whole_life_is_on_record_after_its_end(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "mira")
    lab = host.lab_file(lab_text())

    def broken(*_rest: object) -> None:
        raise ConfigureError("task 'Start slurmctld' failed", where="hpc-controller")

    with monkeypatch.context() as patch:
        patch.setattr(simulated_world.SimulatedGuests, "configure", broken)
        with pytest.raises(ConfigureError):
            host.provision(lab)
    host.provision(lab)
    host.destroy()
    found = history(host.environment(), "demo", last=0)
    assert [(item.command, item.result, item.exit_code) for item in found.commands] == [
        ("provision", "failed", 1),
        ("provision", "done", 0),
        ("destroy", "done", 0),
    ]
    first, second, third = found.commands
    assert "SUDO_USER claims mira" in first.user
    assert "Start slurmctld" in first.error
    assert ("create", "domain/hpc-controller") in first.changes
    assert second.changes == (), "only the playbooks were left to do"
    assert ("delete", "domain/hpc-controller") in third.changes
    text = history_text(found, "demo")
    assert "task 'Start slurmctld' failed" in text
    assert len(history(host.environment(), None, last=1).commands) == 1
    assert history(host.environment(), "other", last=0).commands == ()
    assert "Nothing was changed yet" in history_text(history(host.environment(), "other", last=0), "other")
    assert (host.home.audit.stat().st_mode & 0o777) == 0o600


def test_what_changes_nothing_is_not_on_record(host: SimulatedHost) -> None:
    host.plan(host.lab_file(lab_text()))
    assert not host.home.audit.exists()


def test_a_killed_command_did_not_end(host: SimulatedHost) -> None:
    log = AuditLog(host.home.audit)
    program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = Path(f"/proc/{program.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    begin = {"event": "begin", "lab": "demo", "command": "provision", "user": "root", "boot": boot}
    log.append({"id": "a", **begin, "pid": program.pid, "started": started})
    assert [item.result for item in history(host.environment(), "demo", last=0).commands] == [RUNNING]
    program.kill()
    program.wait()
    log.append({"id": "b", **begin, "pid": os.getpid(), "started": "1"})
    log.append({"id": "c", **begin, "pid": os.getpid(), "boot": "of yesterday"})
    assert [item.result for item in history(host.environment(), "demo", last=0).commands] == [CUT_OFF] * 3


def test_a_torn_line_costs_only_itself(host: SimulatedHost) -> None:
    log = AuditLog(host.home.audit)
    log.append({"id": "a", "event": "begin", "lab": "demo", "command": "provision"})
    with host.home.audit.open("ab") as file:
        file.write(b'{"id":"b","event":"be')
    log.append({"id": "c", "event": "begin", "lab": "demo", "command": "destroy"})
    with host.home.audit.open("ab") as file:
        file.write(b"[" * 100_000 + b"\n\xff\xfe\n")
    found = history(host.environment(), "demo", last=0)
    assert [item.command for item in found.commands] == ["provision", "destroy"]
    assert found.unreadable == 3
    assert "3 lines" in history_text(found, "demo")


def test_a_log_that_cannot_be_written_is_warned_of_and_nothing_else(host: SimulatedHost) -> None:
    host.home.audit.mkdir(parents=True)
    reporter = Warnings()
    host.provision(host.lab_file(lab_text()), reporter=reporter)
    assert [text for text in reporter.warnings if "audit log cannot be written" in text]
    host.destroy()
    with pytest.raises(StateError, match="cannot be read"):
        history(host.environment(), None, last=0)


def test_a_planted_link_is_not_followed(host: SimulatedHost, tmp_path: Path) -> None:
    target = tmp_path / "passwd"
    target.write_text("root:x\n")
    host.home.root.mkdir(parents=True, exist_ok=True)
    host.home.audit.symlink_to(target)
    with pytest.raises(StateError, match="it is a symbolic link"):
        AuditLog(host.home.audit).append({"id": "a"})
    assert target.read_text() == "root:x\n"


def test_lines_of_many_writers_do_not_mix(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom emulator.apply.audit import AuditLog\n"
        "for number in range(40):\n"
        "    AuditLog(Path(sys.argv[1])).append({'id': sys.argv[2], 'number': number, 'text': 'x' * 5000})\n"
    )
    path = tmp_path / "audit.jsonl"
    writers = [subprocess.Popen([sys.executable, "-c", program, str(path), str(number)]) for number in range(4)]
    assert [writer.wait(timeout=PATIENCE) for writer in writers] == [0] * 4
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 160
    for number in range(4):
        assert [line["number"] for line in lines if line["id"] == str(number)] == list(range(40))
