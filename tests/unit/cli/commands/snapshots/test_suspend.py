"""What `suspend`, `resume`, `stop` and `start` ask, print and give as JSON; the operations have their own tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from emulator.cli.main import cli
from emulator.core.errors import UsageError
from emulator.core.paths import Home
from emulator.guests.verify.report import CheckResult
from emulator.operations.provision import ProvisionResult
from emulator.operations.snapshots import rest
from emulator.operations.snapshots.rest import Suspended
from emulator.plan.model import Plan
from tests.support.simulated_world import lab_text


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, dict[str, Any]]]:
    """What the operations were asked for; the lab demo is there."""
    home = Home(tmp_path / "home")
    monkeypatch.setenv("HYPERSCALER_HOME", str(home.root))
    home.lab("demo").root.mkdir(parents=True)
    home.lab("demo").spec.write_text(lab_text())
    seen: list[tuple[str, dict[str, Any]]] = []

    def answer(name: str, gives: Callable[..., object]) -> None:
        def operation(_env: Any, lab: str, _reporter: Any, _stop: Any, **options: Any) -> object:
            assert lab == "demo"
            seen.append((name, options))
            return gives(**options)

        monkeypatch.setattr(rest, f"{name}_lab", operation)

    answer("suspend", lambda **_options: Suspended(2048, 600 << 20))
    answer("resume", lambda verify, **_options: (CheckResult("job", True, "ran", 1.0),) if verify else ())
    answer("stop", lambda confirm, **_options: confirm())
    answer("start", lambda **_options: ProvisionResult(Plan("demo", ())))
    return seen


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def test_suspend_and_resume(asked: list[tuple[str, dict[str, Any]]]) -> None:
    assert "600.0 MiB on the disk keep what its machines had" in run("suspend", "demo").stdout
    assert json.loads(run("suspend", "demo", "--json").stdout) == {
        "version": 1,
        "lab": "demo",
        "memory_mib": 2048,
        "space_bytes": 600 << 20,
    }
    assert run("resume", "demo").stdout == "demo goes on\nok     job: ran (1.0s)\n"
    assert json.loads(run("resume", "demo", "--no-verify", "--json").stdout)["checks"] == []
    assert asked[-1] == ("resume", {"verify": False, "wait_seconds": 0.0})


def test_stop_asks_and_start_says_how_the_lab_is(asked: list[tuple[str, dict[str, Any]]]) -> None:
    refused = run("stop", "demo")
    assert isinstance(refused.exception, UsageError) and "--yes" in refused.exception.fix
    assert run("stop", "demo", "--yes").stdout == "demo is stopped; hyperscaler start demo lets it run again\n"
    assert json.loads(run("stop", "demo", "--yes", "--json").stdout)["stopped"] is True
    assert run("start", "demo").stdout.startswith("Lab demo is ready: nothing to change")
    assert json.loads(run("start", "demo", "--cold", "--json").stdout)["lab"] == "demo"
    assert asked[-1] == ("start", {"cold": True, "wait_seconds": 0.0})


@pytest.mark.parametrize("verb", ["suspend", "resume", "stop", "start"])
@pytest.mark.parametrize("word", ["../x", "lab.yaml", "absent"])
def test_wrong_words_ask_for_nothing(asked: list[tuple[str, dict[str, Any]]], verb: str, word: str) -> None:
    assert run(verb, word).exit_code != 0
    assert asked == []
