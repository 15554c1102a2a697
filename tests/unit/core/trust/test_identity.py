from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys

from emulator.core.trust.identity import ProcessIdentity


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_a_process_is_signalled_and_its_end_is_seen() -> None:
    process = sleeper()
    identity = ProcessIdentity.of(process.pid)
    assert identity.lives() and not identity.ended_within(0.0)
    assert identity.signal(signal.SIGKILL)
    assert identity.ended_within(60.0)
    assert not identity.lives(), "a zombie does not live"
    process.wait()
    assert not identity.lives() and not identity.signal(signal.SIGKILL) and identity.ended_within(0.0)


def test_another_process_with_its_id_is_left_alone() -> None:
    process = sleeper()
    identity = ProcessIdentity.of(process.pid)
    for other in (dataclasses.replace(identity, started="1"), dataclasses.replace(identity, boot="an earlier one")):
        assert not other.lives() and not other.signal(signal.SIGKILL)
    assert process.poll() is None
    process.kill()
    process.wait()


def test_what_is_read_is_what_was_written_or_nothing() -> None:
    me = ProcessIdentity.of(os.getpid())
    assert ProcessIdentity.read(me.to_json()) == me
    for damaged in ({}, {**me.to_json(), "pid": -1}, {**me.to_json(), "pid": True}, {**me.to_json(), "started": ""}):
        assert ProcessIdentity.read(damaged) is None
