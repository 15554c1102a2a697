"""What `snapshot` and `reset` ask, print and give as JSON; what they do is tested with the operations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from emulator.cli.main import cli
from emulator.core.errors import UsageError
from emulator.core.paths import Home
from emulator.guests.verify.report import CheckResult
from emulator.lab.snapshots.manifest import Manifest, SavedNode, render_manifest
from emulator.operations.snapshots import create, delete, restore
from emulator.operations.snapshots.restore import Restored, RestoreOptions
from tests.support.simulated_world import lab_text

NODES = (
    SavedNode("hpc-controller", "", "", "", "/base", 1 << 20, 300 << 20, "d", "r"),
    SavedNode("hpc-compute-1", "", "", "", "/base", 1 << 20, 200 << 20, "d", "r"),
)
MADE = Manifest("first", "demo", 1_790_000_000, True, "QEMU 7.2.0", "", {}, {}, "", 8.4, NODES)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, ...]]:
    """What the operations were asked for; the lab demo is there."""
    home = Home(tmp_path / "home")
    monkeypatch.setenv("HYPERSCALER_HOME", str(home.root))
    paths = home.lab("demo")
    paths.root.mkdir(parents=True)
    paths.spec.write_text(lab_text())
    seen: list[tuple[Any, ...]] = []

    def made(_env: Any, lab: str, name: str, *_words: Any, **options: Any) -> Manifest:
        seen.append(("create", lab, name, options))
        return MADE

    def back(_env: Any, lab: str, name: str, options: RestoreOptions, *_words: Any) -> Restored:
        seen.append(("restore", lab, name, options))
        if not options.confirm(MADE):
            return Restored(MADE, declined=True)
        return Restored(MADE, checks=(CheckResult("job", True, "ran", 1.0),) if options.verify else ())

    def gone(_env: Any, lab: str, name: str, *_words: Any, **options: Any) -> int:
        seen.append(("delete", lab, name, options))
        return 1536 << 20

    monkeypatch.setattr(create, "create_snapshot", made)
    monkeypatch.setattr(restore, "restore_snapshot", back)
    monkeypatch.setattr(delete, "delete_snapshot", gone)
    return seen


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words)


def test_create_tells_how_long_the_machines_stood_still_and_the_space(asked: list[tuple[Any, ...]]) -> None:
    done = run("snapshot", "create", "demo", "first", "--wait", "5")
    assert done.exit_code == 0, done.output
    assert done.stdout == (
        "demo: snapshot first has memory and disks of 2 machines, which stood still for 8.4s; it takes 502.0 MiB\n"
    )
    assert asked == [("create", "demo", "first", {"disk_only": False, "wait_seconds": 5.0})]
    shown = json.loads(run("snapshot", "create", "demo", "first", "--disk-only", "--json").stdout)
    assert shown == {
        "version": 1,
        "lab": "demo",
        "snapshot": "first",
        "paused_seconds": 8.4,
        "space_bytes": 502 << 20,
        "memory": True,
    }


@pytest.mark.parametrize(
    ("words", "name"), [(("snapshot", "restore", "demo", "first"), "first"), (("reset", "demo"), "pristine")]
)
def test_going_back_wants_to_be_told_to_go_on(asked: list[tuple[Any, ...]], words: tuple[str, ...], name: str) -> None:
    refused = run(*words)
    assert isinstance(refused.exception, UsageError) and "--yes" in refused.exception.fix
    done = run(*words, "--yes")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("demo is back at snapshot first of 20") and "ok     job: ran" in done.stdout
    assert asked[-1][2] == name and asked[-1][3].verify
    shown = json.loads(run(*words, "--yes", "--no-verify", "--disk-only", "--json").stdout)
    assert (shown["version"], shown["restored"], shown["checks"]) == (1, True, [])
    assert asked[-1][3].disk_only and not asked[-1][3].verify


def test_delete_tells_what_became_free(asked: list[tuple[Any, ...]]) -> None:
    assert run("snapshot", "delete", "demo", "first").stdout == "demo: snapshot first is deleted; 1.5 GiB became free\n"
    assert json.loads(run("snapshot", "delete", "demo", "first", "--json").stdout)["freed_bytes"] == 1536 << 20


def test_the_list_and_one_snapshot(asked: list[tuple[Any, ...]]) -> None:
    assert "demo has no snapshots" in run("snapshot", "list", "demo").stdout
    directory = Home.default().lab("demo").snapshots / "first"
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_bytes(render_manifest(MADE))
    text = run("snapshot", "list", "demo").stdout
    assert "first" in text and "memory" in text
    shown = json.loads(run("snapshot", "list", "demo", "--json").stdout)
    assert shown["snapshots"][0]["nodes"][1] == {
        "name": "hpc-compute-1",
        "disk_bytes": 1 << 20,
        "ram_bytes": 200 << 20,
    }
    one = run("snapshot", "show", "demo", "first", "--check")
    assert "hpc-controller" in one.stdout and "disk DAMAGED" in one.stdout
    assert json.loads(run("snapshot", "show", "demo", "first", "--json").stdout)["memory"] is True
    assert isinstance(run("snapshot", "show", "demo", "other").exception, UsageError)


@pytest.mark.parametrize(
    "words",
    [
        ("snapshot", "create", "demo"),
        ("snapshot", "create", "../x", "first"),
        ("snapshot", "create", "lab.yaml", "first"),
        ("snapshot", "restore", "absent", "first", "--yes"),
        ("snapshot", "delete", "../x", "first"),
        ("snapshot", "list", "../x"),
        ("reset", "../x", "--yes"),
        ("reset",),
    ],
)
def test_wrong_words_ask_for_nothing(asked: list[tuple[Any, ...]], words: tuple[str, ...]) -> None:
    assert run(*words).exit_code != 0
    assert asked == []
