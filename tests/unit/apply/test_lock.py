from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from emulator.apply.lock import exclusive_lock, holder_of
from emulator.errors import ConflictError, ExitCode

HOLD = """
import sys
from pathlib import Path
from emulator.apply.lock import exclusive_lock
with exclusive_lock(Path(sys.argv[1]), purpose="provision demo"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_holder(tmp_path: Path):
    path = tmp_path / "locks" / "demo.lock"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield path, process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_loser_is_told_who_holds_it(other_holder) -> None:
    path, process = other_holder
    with pytest.raises(ConflictError) as caught, exclusive_lock(path, purpose="destroy demo"):
        pytest.fail("two holders")
    assert f"process {process.pid} on" in caught.value.what
    assert "(provision demo)" in caught.value.what
    assert caught.value.exit_code is ExitCode.CONFLICT
    assert f"process {process.pid} " in holder_of(path)


def test_a_dead_holder_does_not_block(other_holder) -> None:
    path, process = other_holder
    process.kill()
    process.wait()
    assert holder_of(path) == ""
    with exclusive_lock(path, purpose="destroy demo"):
        assert f"process {os.getpid()} " in holder_of(path)
    assert holder_of(path) == ""


def test_waiting_takes_over_when_the_holder_ends(other_holder) -> None:
    path, process = other_holder
    assert process.stdin is not None
    process.stdin.close()
    with exclusive_lock(path, purpose="destroy demo", wait_seconds=20):
        assert holder_of(path)


def test_a_planted_link_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("keep me")
    link = tmp_path / "demo.lock"
    link.symlink_to(target)
    with pytest.raises(Exception, match="cannot be opened"), exclusive_lock(link, purpose="x"):
        pytest.fail("followed a link")
    assert target.read_text() == "keep me"
