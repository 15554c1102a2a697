"""Root runs what root owns, and the host's record says who was root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from emulator.cli.main import cli
from emulator.core.errors import ExitCode, HostNotFitError
from emulator.core.progress import SilentReporter
from emulator.core.trust import caller
from emulator.core.trust.caller import caller_uid, login_uid
from emulator.lab import command_log
from emulator.operations.history import history
from emulator.operations.host import program as program_module
from emulator.operations.host.autostart import enable_autostart
from emulator.operations.host.program import Program, doubt_about_program, this_program
from tests.support.simulated_world import SimulatedHost, lab_text

SOMEBODY = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimulatedHost]:
    made = SimulatedHost(tmp_path / "host")
    yield made
    made.close()


# ---------------------------------------------------------------------------------------------------- the unit of root
@pytest.fixture
def installed(tmp_path: Path) -> Program:
    """A checkout with its interpreter, all of root's."""
    checkout = tmp_path / "checkout"
    for directory in ("venv/bin", "emulator/core", "playbooks"):
        (checkout / directory).mkdir(parents=True)
    for file in ("venv/bin/hyperscaler", "venv/bin/python3", "emulator/core/fs.py", "playbooks/site.yml"):
        (checkout / file).write_text("")
    return Program(
        checkout / "venv/bin/hyperscaler",
        files=(checkout / "venv/bin/python3",),
        trees=(checkout / "emulator", checkout / "playbooks"),
    )


def refused(host: SimulatedHost, installed: Program) -> HostNotFitError:
    with pytest.raises(HostNotFitError, match="root would run at every start of this machine what others") as told:
        enable_autostart(host.environment(), "demo", installed, SilentReporter())
    assert told.value.exit_code is ExitCode.HOST_NOT_FIT
    assert "/opt/hyperscaler/bin/hyperscaler host enable-autostart demo" in told.value.fix
    assert not (host.units / "hyperscaler-demo.service").exists()
    return told.value


PLACES = (
    "checkout/venv/bin/hyperscaler",
    "checkout/venv/bin/python3",
    "checkout/venv",
    "checkout",
    "checkout/emulator/core/fs.py",
    "checkout/playbooks/site.yml",
    "host/home",
    "host/home/labs/demo",
    "host/home/labs/demo/cluster.yaml",
)


@needs_root
def test_root_s_unit_runs_nothing_that_others_can_change(
    host: SimulatedHost, installed: Program, tmp_path: Path
) -> None:
    host.provision(host.lab_file(lab_text()))
    for place in PLACES:
        exposed = tmp_path / place
        mode = exposed.stat().st_mode
        os.chown(exposed, SOMEBODY, -1)
        assert f"{exposed}: this belongs to another user (uid {SOMEBODY})" in refused(host, installed).what
        os.chown(exposed, 0, -1)
        exposed.chmod(0o777)
        assert f"{exposed}: others can write to" in refused(host, installed).what
        exposed.chmod(mode & 0o7777)
    assert enable_autostart(host.environment(), "demo", installed, SilentReporter())
    assert str(installed.path) in (host.units / "hyperscaler-demo.service").read_text()


@needs_root
def test_a_link_that_leads_the_interpreter_elsewhere(host: SimulatedHost, installed: Program, tmp_path: Path) -> None:
    host.provision(host.lab_file(lab_text()))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "python3").write_text("")
    os.chown(theirs, SOMEBODY, -1)
    (tmp_path / "checkout/venv/bin/python3").unlink()
    (tmp_path / "checkout/venv/bin/python3").symlink_to(theirs / "python3")
    assert f"{theirs}: this belongs to another user" in refused(host, installed).what


def test_all_that_this_program_is_made_of_is_looked_at() -> None:
    found = this_program()
    assert Path(sys.executable) in found.files
    for module in (program_module, subprocess, pytest):
        assert module.__file__ is not None
        assert any(Path(module.__file__).is_relative_to(tree) for tree in found.trees), module.__name__
    assert any(tree.name == "playbooks" for tree in found.trees)


# -------------------------------------------------------------------------------------------- a checkout of somebody's
@needs_root
def test_root_is_warned_of_a_program_of_somebody_else(
    installed: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.chown(installed.path.parent, SOMEBODY, -1)
    monkeypatch.setattr(sys, "argv", [str(installed.path)])
    monkeypatch.setenv("HYPERSCALER_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(program_module, "caller_uid", lambda: 0)
    assert f"{installed.path.parent}: this belongs to another user (uid {SOMEBODY})" in doubt_about_program()
    result = CliRunner().invoke(cli, ["status"])
    assert "warning: root runs a program that another user could have changed" in result.output
    monkeypatch.setattr("os.getppid", lambda: 1)
    monkeypatch.setenv("INVOCATION_ID", "0" * 32)
    result = CliRunner().invoke(cli, ["status"])
    assert isinstance(result.exception, HostNotFitError), "a unit that an earlier version wrote has nobody to warn"
    assert str(installed.path.parent) in result.exception.what
    monkeypatch.delenv("INVOCATION_ID")
    # Whoever becomes root decides anyway what root runs.
    monkeypatch.setattr(program_module, "caller_uid", lambda: SOMEBODY)
    assert doubt_about_program() == ""
    monkeypatch.setattr("os.geteuid", lambda: SOMEBODY + 1)
    monkeypatch.setattr(program_module, "caller_uid", lambda: SOMEBODY + 1)
    assert doubt_about_program() == ""


# ------------------------------------------------------------------------------------------------------ who was it
@pytest.mark.parametrize(
    ("text", "uid"), [("1000", 1000), ("0", 0), ("4294967295", None), ("", None), ("x", None), ("-1", None)]
)
def test_the_kernel_s_login_uid(tmp_path: Path, text: str, uid: int | None) -> None:
    path = tmp_path / "loginuid"
    path.write_text(text)
    assert login_uid(path) == uid
    assert login_uid(tmp_path / "no kernel with auditing") is None


def test_who_is_behind_a_process(tmp_path: Path) -> None:
    path = tmp_path / "loginuid"
    path.write_text("1000")
    assert caller_uid(path, {"SUDO_UID": "1001"}) == 1000
    path.write_text("4294967295")
    assert caller_uid(path, {"SUDO_UID": "1001"}) == 1001
    for lie in ("", "mira", "-1", "²"):
        assert caller_uid(path, {"SUDO_UID": lie}) == os.getuid()


def recorded(host: SimulatedHost) -> str:
    host.provision(host.lab_file(lab_text()))
    (found,) = history(host.environment(), "demo", last=1).commands
    return found.user


def test_the_record_says_who_logged_in_whatever_the_environment_claims(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_log, "login_uid", lambda: SOMEBODY)
    monkeypatch.setenv("SUDO_USER", "the-professor")
    me = command_log.user_name()
    assert recorded(host) == f"{SOMEBODY} (as {me}; SUDO_USER claims the-professor)"
    monkeypatch.delenv("SUDO_USER")
    host.destroy()
    assert recorded(host) == f"{SOMEBODY} (as {me})"


def test_without_a_login_the_record_has_the_uid_and_a_claim_stays_a_claim(
    host: SimulatedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_log, "login_uid", lambda: None)
    monkeypatch.setenv("SUDO_USER", "mira\x1b[2J")
    me = command_log.user_name()
    user = recorded(host)
    assert user.startswith(f"{me} (SUDO_USER claims mira")
    assert user.isprintable()


def test_the_real_file_is_the_one_that_is_read() -> None:
    assert Path("/proc/self/loginuid") == caller.LOGIN_UID
