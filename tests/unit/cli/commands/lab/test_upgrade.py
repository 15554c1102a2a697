"""What `upgrade` asks, prints and gives as JSON; what it does is tested with the operation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from emulator.cli.main import cli
from emulator.core.errors import UsageError
from emulator.operations import upgrade as operation
from emulator.operations.upgrade import Request, Upgraded

BEFORE = {"cloud-control-plane": "1.36.5", "cloud-cpu-worker-1": "1.36.5"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, Request]]:
    """What the operation was asked for; it finds both nodes at 1.36.5, and the user decides."""
    monkeypatch.setenv("HYPERSCALER_HOME", str(tmp_path / "home"))
    seen: list[tuple[str, Request]] = []

    def upgrade(_env: Any, lab: str, request: Request, _reporter: Any, _stop: Any) -> Upgraded:
        seen.append((lab, request))
        if not request.confirm(BEFORE, "1.37"):
            return Upgraded("1.37", BEFORE, declined=True)
        return Upgraded("1.37.2", BEFORE, {"cloud-control-plane": 5, "cloud-cpu-worker-1": 4})

    monkeypatch.setattr(operation, "upgrade", upgrade)
    return seen


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["upgrade", *words])


def test_it_says_what_every_node_has_now(asked: list[tuple[str, Request]]) -> None:
    done = run("demo", "--to", "1.37", "--yes")
    assert done.exit_code == 0
    assert "demo: all nodes have Kubernetes 1.37.2\ncloud-control-plane: 5 changed\n" in done.stdout
    ((lab, request),) = asked
    assert (lab, request.to, request.file, request.force) == ("demo", "1.37", None, False)


def test_json_has_the_versions_before_and_after(asked: list[tuple[str, Request]]) -> None:
    done = run("demo", "--to", "v1.37.2", "--yes", "--json", "--force", "--wait", "5")
    document: Mapping[str, Any] = json.loads(done.stdout)
    assert (document["version"], document["lab"], document["upgraded"]) == (1, "demo", True)
    assert (document["kubernetes"], document["before"]) == ("1.37.2", BEFORE)
    assert document["changed"]["cloud-cpu-worker-1"] == 4
    assert asked[0][1].force and asked[0][1].wait_seconds == 5


def test_without_a_terminal_it_wants_to_be_told_to_go_on(asked: list[tuple[str, Request]]) -> None:
    done = run("demo", "--to", "1.37")
    assert isinstance(done.exception, UsageError)
    assert "--yes" in done.exception.fix


@pytest.mark.parametrize(
    "words", [("demo",), ("--to", "1.37"), ("cluster.yaml", "--to", "1.37"), ("../x", "--to", "1")]
)
def test_wrong_words_ask_for_nothing(asked: list[tuple[str, Request]], words: tuple[str, ...]) -> None:
    assert run(*words).exit_code != 0
    assert asked == []
