"""What is said where a host's libraries are missing."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from emulator.core.errors import ExitCode, HostNotFitError
from emulator.core.extras import HOST_LIBRARIES, missing_library, require_host_libraries


def test_it_knows_the_extra_of_the_project() -> None:
    """A library that moves between the extras has to move here, too."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    extra = {line.partition(">")[0] for line in project["optional-dependencies"]["host"]}
    assert set(HOST_LIBRARIES.values()) == extra


def test_nothing_is_said_where_all_are_there() -> None:
    require_host_libraries()


def test_all_that_are_missing_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emulator.core.extras.find_spec", lambda name: None if "ansible" in name else object())
    with pytest.raises(HostNotFitError) as caught:
        require_host_libraries()
    assert caught.value.what.startswith("this command needs ansible-core, ansible-runner, which are not installed")
    assert caught.value.fix == "pip install 'hyperscaler[host]' (in a checkout: make setup)"
    assert caught.value.exit_code is ExitCode.HOST_NOT_FIT


@pytest.mark.parametrize("module", ["libvirt", "ansible_runner.interface"])
def test_a_failed_import_of_one_is_explained(module: str) -> None:
    error = missing_library(ModuleNotFoundError(f"No module named {module!r}", name=module))
    assert error is not None
    assert "which is not installed" in error.what


@pytest.mark.parametrize("name", ["emulator.lab.nothing", "libvirtd", None])
def test_other_failed_imports_are_faults_of_ours(name: str | None) -> None:
    assert missing_library(ImportError("no", name=name)) is None
