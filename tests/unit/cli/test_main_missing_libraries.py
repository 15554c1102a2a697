"""An import that fails inside a verb: a library that a laptop does not have, or a fault of ours."""

from __future__ import annotations

import sys

import click
import pytest

from emulator.cli import main as entry
from emulator.cli import output


def run(monkeypatch: pytest.MonkeyPatch, missing: str) -> int:
    """Run the command with one verb, which imports a module that is not there; its exit code."""

    @click.command()
    def verb() -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(entry, "cli", verb)
    monkeypatch.setitem(output._state, "json", False)  # whatever a test before this one asked for
    monkeypatch.setattr(sys, "argv", ["hyperscaler"])
    with pytest.raises(SystemExit) as caught:
        entry.main()
    return int(caught.value.code or 0)


def test_a_library_of_hosts_is_one_error_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "ansible_runner.interface") == 4
    shown = capsys.readouterr().err
    assert shown.startswith("error: this command needs ansible-runner, which is not installed")
    assert "fix: pip install 'hyperscaler[host]'" in shown
    assert "Traceback" not in shown


def test_another_module_is_a_fault_of_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "emulator.nothing") == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert "this is a fault of hyperscaler itself: ModuleNotFoundError: No module named 'emulator.nothing'" in shown
