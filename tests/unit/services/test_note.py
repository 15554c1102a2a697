from __future__ import annotations

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
