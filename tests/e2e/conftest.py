"""Labs on real VMs, driven through the command as a person would."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from emulator.core.paths import Home
from tests.support.labs import host_snapshot, hyperscaler


@pytest.fixture(scope="session", autouse=True)
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.exit("the end-to-end labs run as root", returncode=2)


@pytest.fixture(scope="module")
def before(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """The host without the module's lab, of which an earlier run may have left something when it was killed."""
    hyperscaler("destroy", request.module.LAB, "--yes", check=False)
    return host_snapshot()


@pytest.fixture(scope="module")
def no_lab_left(request: pytest.FixtureRequest, before: dict[str, list[str]]) -> Iterator[None]:
    """Whatever happens in the module, its lab is taken away at the end."""
    yield
    lab = request.module.LAB
    if Home.default().lab(lab).root.exists():
        hyperscaler("destroy", lab, "--yes", check=False)
