"""Names of tasks by which the labs' tests know how far a run is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
WAITED_FOR = sorted(
    {
        name
        for file in (ROOT / "tests" / "e2e").glob("*.py")
        for name in re.findall(r'kill_when\(\s*lab_file, f"\{\w+\}: ([A-Z][^"]+)"', file.read_text())
    }
)


def test_there_are_some() -> None:
    assert len(WAITED_FOR) > 1


@pytest.mark.parametrize("name", WAITED_FOR)
def test_a_task_that_a_lab_s_test_waits_for_exists(name: str) -> None:
    texts = [file.read_text() for file in (ROOT / "playbooks").rglob("*.yml")]
    found = [line for text in texts for line in text.splitlines() if line.strip().startswith(f"- name: {name}")]
    assert found, f"no task is called {name!r}: a test of a lab would wait for it until the run ends"
