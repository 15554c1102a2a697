"""`destroy` in a script: what counts as an error, and what it says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from emulator import wiring
from emulator.cli.commands.lab.destroy import command
from emulator.core.errors import ConflictError, HypervisorError, UsageError
from tests.support.simulated_world import SYSTEM_URI, SimulatedHost, lab_text


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedHost]:
    made = SimulatedHost(tmp_path / "host")
    monkeypatch.setattr(wiring, "real_environment", made.environment)
    yield made
    made.close()


def call(*words: str) -> Result:
    return CliRunner().invoke(command, words)


def test_a_missing_lab_is_an_error_unless_that_is_fine(host: SimulatedHost) -> None:
    assert isinstance(call("demo", "--yes").exception, UsageError)
    done = call("demo", "--yes", "--missing-ok")
    assert (done.exit_code, done.stdout) == (0, "there is no lab demo\n")
    told = json.loads(call("demo", "--yes", "--missing-ok", "--json").stdout)
    assert (told["destroyed"], told["missing"], told["changes"]) == (False, True, [])
    assert not host.home.lab("demo").root.exists()
    assert not any(host.home.locks.iterdir())


def test_a_lab_that_is_there_goes_all_the_same(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text()))
    told = json.loads(call("demo", "--yes", "--missing-ok", "--json").stdout)
    assert (told["destroyed"], told["missing"]) == (True, False)
    assert not host.home.lab("demo").root.exists()
    assert not [path for path in host.home.locks.iterdir() if path.is_file()]


def test_missing_ok_hides_no_failure(host: SimulatedHost) -> None:
    host.provision(host.lab_file(lab_text(hypervisor=SYSTEM_URI)))
    copy = host.home.lab("copy").root
    shutil.copytree(host.home.lab("demo").root, copy)
    assert isinstance(call("copy", "--yes", "--missing-ok").exception, ConflictError)
    shutil.rmtree(copy)
    shutil.rmtree(host.home.lab("demo").root)
    host.home.hypervisor_of("demo").unlink()
    host.libvirt_down.touch()
    assert isinstance(call("demo", "--yes", "--missing-ok").exception, HypervisorError)
