"""The script that asks for pages from inside a probe pod, run by a shell with a stand-in for wget."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from emulator.guests.verify import kubernetes_probes
from emulator.guests.verify.kubernetes_probes import round_script
from tests.support.waiting import PATIENCE

ANSWERS_THE_FIFTH_TIME = """#!/bin/sh
n=$(cat "$COUNT" 2>/dev/null || echo 0)
echo $((n + 1)) > "$COUNT"
[ "$n" -ge 4 ] && echo node-a
"""


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kubernetes_probes, "POLL_SECONDS", 0.0)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    return tmp_path


def asked(pages: Path, wget: str, seconds: float) -> tuple[str, int]:
    """What the script prints for one target, and how often it asked."""
    (pages / "wget").write_text(wget)
    (pages / "wget").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", round_script(["probe"], seconds)], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    count = pages / "count"
    return done.stdout, int(count.read_text()) if count.exists() else 0


def test_what_answers_late_is_asked_until_it_does(pages: Path) -> None:
    assert asked(pages, ANSWERS_THE_FIFTH_TIME, PATIENCE) == ("probe node-a\n", 5)


def test_what_never_answers_is_given_up_when_the_time_is_over(pages: Path) -> None:
    never = ANSWERS_THE_FIFTH_TIME.replace('[ "$n" -ge 4 ] && echo node-a', "exit 1")
    assert asked(pages, never, 0) == ("probe \n", 3)
