"""The log file of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.cli.render import run_log
from emulator.core.ports import log


@pytest.mark.parametrize("when", ["opening", "writing"])
def test_a_log_that_cannot_be_written_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    full = OSError(28, "No space left on device")

    def refuse(*_: object, **__: object) -> None:
        raise full

    if when == "opening":
        monkeypatch.setattr(run_log, "open_own", refuse)
    else:
        monkeypatch.setattr(run_log._LogFile, "flush", refuse)
    with run_log.run_log(tmp_path, "provision"):
        for _ in range(3):
            log.info("something happened")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path}/")
    assert line.endswith("cannot be written: No space left on device; the log has gaps")
