"""`host check` as a user calls it: exit code, pure JSON, this machine, and its cost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from emulator.adapters.system.host_edits import HostEdits
from emulator.cli.commands.host.host import command
from emulator.core.errors import ExitCode, InterruptedRunError
from emulator.core.paths import Home
from emulator.core.ports import Completed
from emulator.core.progress import SilentReporter
from emulator.operations.host import prepare
from emulator.operations.host.record import PreparedHost, backups_of
from tests.support import host_trees
from tests.support.host_tools import HostTools
from tests.support.waiting import PATIENCE


def call(*words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "emulator.cli.main", "host", *map(str, words)]
    environment = {**os.environ, **variables}
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment
    )


@pytest.mark.parametrize(("name", "code"), [("intel", ExitCode.DONE), ("broken", ExitCode.HOST_NOT_FIT)])
def test_the_exit_code_says_whether_the_host_is_fit(tmp_path: Path, name: str, code: ExitCode) -> None:
    done = call("check", "--json", "--root", host_trees.plant(tmp_path, name))
    assert done.returncode == code
    assert json.loads(done.stdout)["fit"] is (code is ExitCode.DONE)


def test_a_lab_file_with_faults_is_not_judged(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text("version: 7\n")
    done = call("check", tmp_path / "lab.yaml", "--json")
    assert done.returncode == ExitCode.INVALID_CONFIG
    assert json.loads(done.stdout)["error"]["exit_code"] == ExitCode.INVALID_CONFIG


def test_this_machine_is_judged_within_two_seconds_of_its_processors() -> None:
    # The clock on the wall also counts what others do here meanwhile.
    before = os.times()
    done = call("check", "--json")
    after = os.times()
    assert done.returncode in (ExitCode.DONE, ExitCode.HOST_NOT_FIT), done.stderr
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2.0
    checks = {check["id"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["program.ansible"]["level"] == "PASS"


def test_a_check_without_a_lab_file_loads_little_of_the_program(tmp_path: Path) -> None:
    """Most of what a check costs is loading modules."""
    root = host_trees.plant(tmp_path, "no-virtualisation", pci=[])
    script = (
        "import sys; from emulator.cli.main import cli; "
        f"sys.argv = ['hyperscaler', 'host', 'check', '--json', '--root', {str(root)!r}]\n"
        "try: cli()\nexcept SystemExit: pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert json.loads(done.stdout)["checks"], done.stderr
    loaded = set(done.stderr.split())
    assert "emulator.host.checks" in loaded
    heavy = ("yaml", "jsonschema", "emulator.labfile.load", "emulator.plan", "emulator.images", "emulator.apply")
    assert [name for name in loaded if name.startswith(heavy)] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_an_ordinary_user_gets_an_answer() -> None:
    """The first reading imports everything: nobody may not look where Python itself is on some hosts."""
    script = (
        "import os; from emulator.wiring import host_reader; read = host_reader(None); "
        "from emulator.host.checks import check_host_readings as judge; "
        "from emulator.host.checks.result import Wanted; "
        "read(); os.setgroups([]); os.setgid(65534); os.setuid(65534); "
        "report = judge(read(), Wanted()); print({r.id: r.found for r in report.results}['program.user'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "nobody, not in libvirt and kvm: only root can provision"


def test_a_dry_run_of_prepare_is_pure_json_and_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = call("prepare", "--dry-run", "--gpus", "--json", HYPERSCALER_HOME=str(home))
    assert done.returncode == ExitCode.DONE, done.stderr
    told = json.loads(done.stdout)
    assert {"version", "steps", "reboot", "notes", "manual", "refusal"} == told.keys()
    assert all({"id", "title", "why", "file", "command"} == step.keys() for step in told["steps"])
    assert not home.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="as root, nothing is refused before the question")
def test_nobody_there_to_ask_means_no_change(tmp_path: Path) -> None:
    home = tmp_path / "home"
    done = call("prepare", "--gpus", HYPERSCALER_HOME=str(home))
    assert done.returncode == ExitCode.USAGE
    assert "use --yes" in done.stderr
    assert not (home / "host").exists()


def test_a_restore_without_a_preparation_has_nothing_to_do(tmp_path: Path) -> None:
    done = call("restore", "--json", HYPERSCALER_HOME=str(tmp_path / "home"))
    if os.geteuid() != 0:
        assert done.returncode == ExitCode.HOST_NOT_FIT
        return
    assert done.returncode == ExitCode.DONE
    assert json.loads(done.stdout)["done"] == []


@pytest.mark.parametrize(("caller", "added"), [("ada", ["account:ada"]), ("root", [])])
def test_who_called_sudo_is_added_to_groups_unless_it_is_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caller: str, added: list[str]
) -> None:
    root, home = host_trees.plant(tmp_path / "root", "unprepared"), Home(tmp_path / "home")
    host = PreparedHost(home, lambda: host_trees.read(root), HostEdits(root, backups_of(home)), HostTools(root))
    monkeypatch.setattr("emulator.cli.commands.host.prepare._host", lambda **_: host)
    monkeypatch.setenv("SUDO_USER", caller)
    result = CliRunner().invoke(command, ["prepare", "--dry-run", "--json"])
    steps = json.loads(result.stdout)["steps"]
    assert [step["id"] for step in steps if step["id"].startswith("account:")] == added


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["prepare", "restore"])
def test_a_signal_lets_the_command_under_way_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, number: signal.Signals
) -> None:
    """What it would cut off is apt, dpkg or update-grub."""
    root, home = host_trees.plant(tmp_path / "root", "unprepared"), Home(tmp_path / "home")
    tools = HostTools(root)
    host = PreparedHost(home, lambda: host_trees.read(root), HostEdits(root, backups_of(home)), tools)
    monkeypatch.setattr("emulator.cli.commands.host.prepare._host", lambda **_: host)
    if verb == "restore":
        prepare.prepare(host, prepare.Wish(), SilentReporter())
        tools.calls.clear()
    run = tools.run
    ended: list[str | Path] = []

    def signalled(argv: Sequence[str | Path], **options: Any) -> Completed:
        if not ended:
            os.kill(os.getpid(), number)
        done = run(argv, **options)
        ended.append(argv[0])
        return done

    monkeypatch.setattr(tools, "run", signalled)
    before = signal.getsignal(number)
    result = CliRunner().invoke(command, [verb, "--yes"])
    assert isinstance(result.exception, InterruptedRunError), result.output
    assert "finishing what is under way" in result.stderr
    assert ended == (["apt-get"] * 2 if verb == "prepare" else ["update-initramfs"])
    assert signal.getsignal(number) is before
