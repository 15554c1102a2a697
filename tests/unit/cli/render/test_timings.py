"""How long steps took: kept between runs, and never in the way of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emulator.cli.render.timings import MOST, Timings
from emulator.core.progress import Event, Status


def running(step: str, subject: str = "node") -> Event:
    return Event("configure", subject, Status.RUNNING, step)


def test_a_step_is_timed_from_its_first_event_to_the_next_step(tmp_path: Path) -> None:
    timings = Timings(tmp_path / "timings.json")
    timings.take(running("install: a"), 10.0)
    timings.take(running("install: b"), 20.0)
    timings.take(running("start"), 42.0)
    timings.take(Event("configure", "node", Status.DONE, "configured"), 50.0)
    timings.save()
    later = Timings(tmp_path / "timings.json")
    later.load()
    assert later.last(running("install: c")) == 32.0
    assert later.last(running("start")) == 8.0
    assert later.last(running("other")) is None


def test_a_step_that_failed_is_no_measure(tmp_path: Path) -> None:
    timings = Timings(None)
    timings.take(running("start"), 0.0)
    timings.take(Event("configure", "node", Status.FAILED, "no"), 500.0)
    assert timings.last(running("start")) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"format": 2, "seconds": {"configure/node/start": 3}}',
        b'{"format": 1}',
        b'{"format": 1, "seconds": 4}',
        b'{"format": 1, "seconds": {"configure/node/start": "x"}}',
        b'{"format": 1, "seconds": {"configure/node/start": NaN}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_costs_the_hints_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "timings.json"
    file.write_bytes(content)
    timings = Timings(file)
    timings.load()
    assert timings.last(running("start")) is None
    timings.take(running("start"), 0.0)
    timings.take(running("next"), 5.0)
    timings.save()
    assert json.loads(file.read_text()) == {"format": 1, "seconds": {"configure/node/start": 5.0}}


def test_the_file_is_private_and_does_not_grow_without_end(tmp_path: Path) -> None:
    timings = Timings(tmp_path / "timings.json")
    for number in range(MOST + 50):
        timings.take(running("start", f"node-{number}"), 0.0)
        timings.take(running("next", f"node-{number}"), 5.0)
    timings.save()
    assert (tmp_path / "timings.json").stat().st_mode & 0o777 == 0o600
    kept = json.loads((tmp_path / "timings.json").read_text())["seconds"]
    assert len(kept) == MOST
    assert "configure/node-0/start" not in kept and f"configure/node-{MOST + 49}/start" in kept


def test_a_home_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    timings = Timings(tmp_path / "none" / "timings.json")
    timings.load()
    timings.save()
    assert not (tmp_path / "none").exists()
