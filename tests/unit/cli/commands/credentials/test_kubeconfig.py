"""hyperscaler kubeconfig: where it writes."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import emulator.operations.connect
import emulator.wiring
from emulator.cli.commands.credentials.kubeconfig import command
from emulator.core.errors import UsageError


@pytest.fixture(autouse=True)
def a_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator.wiring, "real_environment", lambda: None)
    monkeypatch.setattr(emulator.operations.connect, "kubeconfig", lambda *_words, **_options: "kind: Config\n")
    monkeypatch.setattr(emulator.operations.connect, "way_to_lab", lambda *_words: ())


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(command, ["demo", *map(str, words)])


def test_it_leaves_the_directory_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    done = call("-o", tmp_path / "kc")
    assert (done.exit_code, (tmp_path / "kc").read_text()) == (0, "kind: Config\n")
    assert stat.S_IMODE((tmp_path / "kc").stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777


def test_it_does_not_take_the_place_of_a_device(tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/dev/null")
    done = call("-o", tmp_path / "stdout")
    assert isinstance(done.exception, UsageError)
    assert "not a regular file" in done.exception.what
    assert (tmp_path / "stdout").is_symlink()
