"""Progress as plain lines."""

from __future__ import annotations

import pytest

from emulator.cli.render import progress
from emulator.core.progress import Event, Status


def told(capsys: pytest.CaptureFixture[str], *messages: str) -> list[str]:
    reporter = progress.PlainReporter()
    for message in messages:
        reporter.event(Event("image", "hpc-base", Status.RUNNING, message))
    reporter.event(Event("image", "hpc-base", Status.DONE, "abc"))
    return [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]


def test_details_of_a_step_are_told_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 2.0, 3.0, 30.0, 31.0])
    now = [0.0]

    def monotonic() -> float:
        return now[0]

    monkeypatch.setattr("time.monotonic", monotonic)
    reporter = progress.PlainReporter()
    for message in ("prepare", "packages", "packages: Get:1", "packages: Get:2", "packages: Get:3", "disk"):
        now[0] = next(clock)
        reporter.event(Event("image", "hpc-base", Status.RUNNING, message))
    lines = [line.rpartition("hpc-base: ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["prepare", "packages", "packages: Get:3", "disk"]


def test_the_same_step_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "boot", "boot") == ["image     hpc-base: boot", "image     hpc-base: ok abc"]
