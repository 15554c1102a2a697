"""The copy of simulated GPUs that plans are made on."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from emulator.adapters.simulated.scratch import scratch_copy


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


def test_what_is_there_for_a_moment_is_not_copied(tmp_path: Path) -> None:
    gpus = tmp_path / "gpu"
    gpus.mkdir()
    for name in ("gpus.json", "gpus.new", "gpus.lock", ".owners.json.new"):
        (gpus / name).write_text("{}")
    assert [path.name for path in scratch_copy(gpus).iterdir()] == ["gpus.json"]
    assert list(scratch_copy(tmp_path / "none").iterdir()) == []


def test_what_killed_processes_left_goes_and_nothing_else(tmp_path: Path, temporary: Path) -> None:
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    kept = [f"hyperscaler-gpu-{os.getpid()}-a", "hyperscaler-gpu-x-a", "hyperscaler-other"]
    for name in [*kept, f"hyperscaler-gpu-{gone}-a"]:
        (temporary / name).mkdir()
    fresh = scratch_copy(tmp_path / "none")
    assert sorted(path.name for path in temporary.iterdir()) == sorted([*kept, fresh.name])
