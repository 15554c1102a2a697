from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.apply.journal import Journal, decode, encode
from emulator.apply.state import StateStore
from emulator.core.errors import StateError
from emulator.plan.resources import Volume

DISK = Volume(name="a", path="/lab/a.qcow2", image="hpc-base", size_gib=8)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


def reopened(journal: Journal) -> StateStore:
    return StateStore(Journal(journal.path), boot_id="boot-1")


def test_missing_journal_is_empty(journal: Journal) -> None:
    assert journal.read().entries == ()
    assert not journal.path.exists()


def test_state_survives_the_process(journal: Journal) -> None:
    store = StateStore(journal, boot_id="boot-1")
    store.start_run("provision")
    store.begin("create", DISK)
    store.end("create", DISK, {"base": "/images/x"})
    store.fact("hypervisor", "embedded")
    state = reopened(journal).state
    assert state.resources[DISK.id].resource == DISK
    assert state.resources[DISK.id].handle == {"base": "/images/x"}
    assert state.resources[DISK.id].open_action is None
    assert state.facts == {"hypervisor": "embedded"}
    assert journal.path.stat().st_mode & 0o777 == 0o600


def test_an_open_begin_is_seen_by_the_next_run(journal: Journal) -> None:
    StateStore(journal, boot_id="b").begin("create", DISK)
    record = reopened(journal).state.resources[DISK.id]
    assert record.open_action == "create"


def test_an_open_delete_keeps_record_and_handle(journal: Journal) -> None:
    store = StateStore(journal, boot_id="b")
    store.begin("create", DISK)
    store.end("create", DISK, {"base": "/b"})
    store.begin("delete", DISK)
    record = reopened(journal).state.resources[DISK.id]
    assert (record.open_action, record.handle) == ("delete", {"base": "/b"})


def test_a_delete_ends_the_record(journal: Journal) -> None:
    store = StateStore(journal, boot_id="b")
    store.end("create", DISK, {})
    store.begin("delete", DISK)
    store.end("delete", DISK, {})
    assert reopened(journal).state.is_empty


def test_a_torn_last_line_is_reported_and_does_not_swallow_the_next(journal: Journal) -> None:
    store = StateStore(journal, boot_id="b")
    store.end("create", DISK, {})
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + whole[: len(whole) // 2])
    again = reopened(journal)
    assert [damage.torn for damage in again.damage] == [True]
    assert DISK.id in again.state.resources
    again.fact("x", "y")
    third = reopened(journal)
    assert third.state.facts == {"x": "y"}
    assert [damage.torn for damage in third.damage] == [False]


def test_a_flipped_byte_is_noticed(journal: Journal) -> None:
    store = StateStore(journal, boot_id="b")
    store.end("create", DISK, {})
    raw = journal.path.read_bytes().replace(b'"size_gib":8', b'"size_gib":9')
    journal.path.write_bytes(raw)
    again = reopened(journal)
    assert again.state.is_empty
    assert [(damage.line, damage.why) for damage in again.damage] == [(1, "checksum differs")]


def test_repair_keeps_the_damaged_file_and_what_can_be_believed(journal: Journal) -> None:
    store = StateStore(journal, boot_id="b")
    store.end("create", DISK, {"base": "/b"})
    store.begin("update", DISK)
    store.fact("hypervisor", "embedded")
    with journal.path.open("ab") as file:
        file.write(b"garbage\n")
    damaged = reopened(journal)
    kept = damaged.rewrite_damaged()
    assert kept is not None
    assert b"garbage" in kept.read_bytes()
    clean = reopened(journal)
    assert clean.damage == ()
    assert clean.state.facts == {"hypervisor": "embedded"}
    record = clean.state.resources[DISK.id]
    assert (record.open_action, record.handle) == ("update", {"base": "/b"})


def test_a_newer_format_is_refused(journal: Journal) -> None:
    journal.path.write_bytes(encode({"v": 99, "type": "run"}))
    with pytest.raises(StateError, match="format 99, newer"):
        journal.read()


def test_a_newer_format_with_another_checksum_is_refused_and_not_taken_for_damage(journal: Journal) -> None:
    journal.append({"type": "run"})
    with journal.path.open("ab") as file:
        file.write(b'{"type":"run","v":2,"sum":"blake3:0011"}\n')
    with pytest.raises(StateError, match="format 2, newer"):
        journal.read()


def test_a_flipped_bit_in_the_version_is_damage(journal: Journal) -> None:
    journal.append({"type": "run"})
    journal.path.write_bytes(journal.path.read_bytes().replace(b'"v":1', b'"v":5'))
    contents = journal.read()
    assert [item.why for item in contents.damage] == ["checksum differs"] and contents.entries == ()


def test_what_looks_newer_before_lines_of_this_version_is_damage(journal: Journal) -> None:
    journal.path.write_bytes(b'{"type":"run","v":9,"sum":"?"}\n')
    journal.append({"type": "run"})
    contents = journal.read()
    assert [item.line for item in contents.damage] == [1] and len(contents.entries) == 1


def test_an_unwritable_journal_stops_the_effect(tmp_path: Path) -> None:
    store = StateStore(Journal(tmp_path / "missing" / "journal.jsonl"), boot_id="b")
    with pytest.raises(StateError, match="cannot be written"):
        store.begin("create", DISK)


@given(st.binary(max_size=300))
def test_no_line_breaks_the_reader(line: bytes) -> None:
    entry, why = decode(line)
    assert (entry is None) == bool(why)


@given(st.dictionaries(st.text(max_size=8), st.recursive(st.text() | st.integers() | st.booleans(), st.lists)))
def test_encode_decode(data: dict[str, object]) -> None:
    data.pop("sum", None)
    entry = {"v": 1, **{key: value for key, value in data.items() if key != "v"}}
    assert decode(encode(entry).rstrip(b"\n"))[0] == json.loads(json.dumps(entry))
