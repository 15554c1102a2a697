from __future__ import annotations

import errno
from pathlib import Path

import pytest

from emulator.services.note import Note
from emulator.supervisor.in_place import read_in_place


def test_a_note_names_its_start_and_is_there_for_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.note"
    monkeypatch.setenv("HYPERSCALER_NOTE", str(file))
    monkeypatch.setenv("HYPERSCALER_START", "1")
    note = Note()
    assert note.before() == {}
    note.say("ready", {"paused": ["a"]})
    note.say("ready", {"paused": []})
    note.say("ready", {"paused": []})
    note.say("full")
    assert capfd.readouterr().out == "ready\nfull\n", "the log has each change of words once"
    assert read_in_place(file) == {"start": "1", "text": "full", "data": {}}
    note.say("ready", {"paused": ["b"]})
    monkeypatch.setenv("HYPERSCALER_START", "2")
    assert Note().before() == {"paused": ["b"]}


def test_what_a_full_disk_did_not_take_is_written_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(_descriptor: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "a.note"
    monkeypatch.setenv("HYPERSCALER_NOTE", str(file))
    monkeypatch.setenv("HYPERSCALER_START", "1")
    note = Note()
    with monkeypatch.context() as patched:
        patched.setattr("os.posix_fallocate", full)
        note.say("ready")
    assert read_in_place(file) == {}
    note.say("ready")
    assert read_in_place(file)["start"] == "1", "without it the service would never count as ready"
    assert capfd.readouterr().out == "ready\n"
