"""What the parser refuses: exit code 2, in the form that was asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import PATIENCE

COMMAND = Path(sys.executable).with_name("hyperscaler")


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *words], capture_output=True, text=True, check=False, timeout=PATIENCE)


@pytest.mark.parametrize("words", [("status", "--json", "--nonsense"), ("provision", "--json"), ("nonsense", "--json")])
def test_with_json_the_error_is_json(words: tuple[str, ...]) -> None:
    done = call(*words)
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "UsageError"
    assert error["exit_code"] == 2
    assert error["what"]
    assert "--help" in error["fix"]


@pytest.mark.parametrize("words", [("status", "--nonsense"), ("verify",)])
def test_without_it_is_text(words: tuple[str, ...]) -> None:
    done = call(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Usage: hyperscaler" in done.stderr


@pytest.mark.parametrize("seconds", ["nan", "inf", "-1"])
def test_a_wait_has_an_end(seconds: str) -> None:
    done = call("destroy", "no-such-lab", "--wait", seconds)
    assert done.returncode == 2
    assert "a number of seconds, 0 or more" in done.stderr


FAULT = """
import sys
import emulator.operations.history
from emulator.cli.main import main

emulator.operations.history.history = lambda *_words, **_options: 1 / 0
sys.argv[0] = "hyperscaler"
main()
"""


@pytest.mark.parametrize("words", [("--json",), ()])
def test_a_fault_of_ours_is_told_in_the_form_that_was_asked_for(words: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FAULT, "history", *words],
        env={**os.environ, "HYPERSCALER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr, "whoever mends it needs to know where"
    said = json.loads(done.stdout)["error"]["what"] if words else done.stderr
    assert "a fault of hyperscaler itself: ZeroDivisionError" in said


@pytest.mark.parametrize(
    "verb", ["provision", "destroy", "configure", "verify", "rotate", "access add", "access revoke"]
)
def test_verbs_that_lock_a_lab_can_wait_for_it(verb: str) -> None:
    assert "--wait SECONDS" in call(*verb.split(), "--help").stdout
