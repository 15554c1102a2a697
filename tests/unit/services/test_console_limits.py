from __future__ import annotations

from pathlib import Path

import pytest

from emulator.services.console_limits import LONGEST_PAUSE, SHORTEST_PAUSE, ConsoleLimits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_log_is_bounded_and_nothing_else_is_touched(tmp_path: Path) -> None:
    clock = Clock()
    limits = ConsoleLimits(tmp_path / "console", limit=1000, kept=100, clock=clock)
    assert limits.look() == LONGEST_PAUSE, "there is no guest yet"
    console = tmp_path / "console"
    console.mkdir()
    (console / "a.log").write_text("a" * 5000)
    (console / "b.log").write_text("b" * 500)
    (console / "notes.txt").write_text("n" * 5000)
    (console / "dir.log").mkdir()
    (console / "link.log").symlink_to(console / "notes.txt")
    limits.look()
    assert (console / "a.log").stat().st_size < 300
    assert (console / "b.log").read_text() == "b" * 500
    assert (console / "notes.txt").read_text() == "n" * 5000
    assert limits.removed == 4900
    assert limits.text() == "each console log is limited to 1000 B, 4.8 KiB removed"


@pytest.mark.parametrize(
    ("rate", "low", "high"),
    [
        (10, LONGEST_PAUSE, LONGEST_PAUSE),  # bytes in a second
        (800, 0.08, 0.13),  # 800 of 1000 bytes: the rest is full in a quarter of a second
        (100_000, SHORTEST_PAUSE, SHORTEST_PAUSE),
    ],
)
def test_the_faster_a_log_grows_the_sooner_it_is_looked_at(tmp_path: Path, rate: int, low: float, high: float) -> None:
    clock = Clock()
    log = tmp_path / "a.log"
    log.write_text("")
    limits = ConsoleLimits(tmp_path, limit=1000, kept=100, clock=clock)
    limits.look()
    clock.now += 1.0
    log.write_text("a" * min(rate, 1000))
    assert low <= limits.look() <= high


def test_what_cannot_be_cut_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.log").write_text("a" * 5000)

    def refused(*_args: object, **_options: object) -> int:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("emulator.services.console_limits.cut_log", refused)
    limits = ConsoleLimits(tmp_path, limit=1000, kept=100)
    limits.look()
    assert limits.text() == "a.log cannot be cut: Permission denied"
