"""What `nightly` prints, writes and sends, and its exit codes; what it does is tested with the operation."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from emulator import wiring
from emulator.cli.main import cli
from emulator.core.errors import ConflictError, HyperscalerError, InterruptedRunError
from emulator.core.ports.notifications import Message
from emulator.operations.nightly import rebuild
from emulator.operations.nightly.model import Night
from tests.support.nights import night
from tests.support.simulated_world import lab_text

FAILED = {"type": "VerifyError", "what": "nodes: none", "where": "demo-b", "fix": "look", "exit_code": 1}


@dataclass
class Told:
    name: str = "somebody"
    got: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> None:
        self.got.append(message)


class Deaf(Told):
    def send(self, message: Message) -> None:
        raise HyperscalerError("the mail was not taken", where="mail")


@dataclass
class Bench:
    root: Path
    result: Night | BaseException = field(default_factory=night)
    told: Told = field(default_factory=Told)
    options: Any = None

    def run(self, *words: str) -> Result:
        (self.root / "demo.yaml").write_text(lab_text())
        return CliRunner().invoke(cli, ["nightly", str(self.root / "demo.yaml"), *words])


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setenv("HYPERSCALER_HOME", str(tmp_path / "home"))

    def nightly(_env: Any, _loaded: Any, options: Any, *_rest: Any) -> Night:
        made.options = options
        if isinstance(made.result, BaseException):
            raise made.result
        return made.result

    monkeypatch.setattr(rebuild, "nightly", nightly)
    monkeypatch.setattr(wiring, "notifiers", lambda _path: (Deaf(), made.told))
    return made


def test_a_good_night_tells_nobody(bench: Bench) -> None:
    done = bench.run("--notify", "x")
    assert done.exit_code == 0
    assert done.stdout.startswith("nightly rebuild of demo: good after 11m40s")
    assert bench.told.got == []
    assert (bench.options.rebuild_images, bench.options.place, bench.options.keep_failed) == (True, None, False)


def test_a_bad_night_tells_all_and_ends_with_one(bench: Bench) -> None:
    bench.result = night(error=FAILED, kept="demo-a")
    done = bench.run("--notify", "x")
    assert done.exit_code == 1
    assert "warning: mail: the mail was not taken" in done.stderr
    (message,) = bench.told.got
    assert message.subject == "hyperscaler: nightly rebuild of demo: FAILED after 11m40s, next to the last good lab"
    assert "there is now: lab demo-a" in message.text
    assert message.data["error"] == FAILED
    assert "images" not in message.data


def test_one_that_could_not_begin_tells_as_well(bench: Bench) -> None:
    bench.result = ConflictError("another night goes on")
    done = bench.run("--notify", "x")
    assert isinstance(done.exception, ConflictError)
    assert bench.told.got[0].subject == "hyperscaler: nightly rebuild of demo.yaml could not begin"
    bench.result = InterruptedRunError("stopped on request")
    bench.run("--notify", "x")
    assert len(bench.told.got) == 1


def test_reports_are_written_for_good_and_bad_nights(bench: Bench, tmp_path: Path) -> None:
    html, data = tmp_path / "r.html", tmp_path / "r.json"
    for result in (night(), night(error=FAILED)):
        bench.result = result
        bench.run("--report", str(html), "--report", str(data))
        assert json.loads(data.read_text())["good"] is result.good
        assert html.read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["report.txt", "none/report.html"])
def test_a_report_that_cannot_be_is_refused_before_the_night(bench: Bench, tmp_path: Path, name: str) -> None:
    done = bench.run("--report", str(tmp_path / name))
    assert isinstance(done.exception, HyperscalerError)
    assert bench.options is None


def test_json_is_the_report(bench: Bench) -> None:
    bench.result = night(error=FAILED)
    done = bench.run("--json", "--keep-images", "--place", "in-place", "--keep-failed")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"] == FAILED
    assert (bench.options.rebuild_images, bench.options.place.name, bench.options.keep_failed) == (
        False,
        "IN_PLACE",
        True,
    )
