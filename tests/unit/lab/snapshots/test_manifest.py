"""Records of snapshots: what is written is read again, and nothing else is believed."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import pytest

from emulator.core.errors import StateError, UsageError
from emulator.lab.snapshots.manifest import (
    Manifest,
    Operation,
    Phase,
    SavedNode,
    Verb,
    check_name,
    parse_manifest,
    parse_operation,
    render_manifest,
    render_operation,
)

NODE = SavedNode("hpc-controller", "b", "h", "k", "/base.qcow2", 1, 2, "d", "r")
MADE = Manifest("first", "demo", 12, True, "QEMU", "f", {"domain/a": "1"}, {"ssh": "2"}, "a", 1.5, (NODE,))
DOES = Operation(Verb.RESTORE, "first", Phase.REWINDING, True, "boot")


def test_what_is_written_is_read_again() -> None:
    assert parse_manifest(render_manifest(MADE), "w") == MADE
    assert parse_operation(render_operation(DOES), "w") == DOES
    assert MADE.space_bytes == 3


@pytest.mark.parametrize("place", range(0, len(render_manifest(MADE)), 7))
def test_a_manifest_with_another_byte_is_refused(place: int) -> None:
    text = bytearray(render_manifest(MADE))
    text[place] ^= 1
    try:
        assert parse_manifest(bytes(text), "w") == MADE  # a blank that became another
    except StateError as error:
        assert error.where == "w"


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b"nul", b'{"sum": 1}', b"[" * 100000])
def test_what_is_no_record_is_refused(text: bytes) -> None:
    for parse in (parse_manifest, parse_operation):
        with pytest.raises(StateError, match="damaged"):
            parse(text, "w")


def forged(record: bytes, **changes: object) -> bytes:
    """A record with a sum that is right, as only a person makes one."""
    data = {**json.loads(record), **changes}
    del data["sum"]
    total = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    return json.dumps({**data, "sum": total}).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"taken": "yesterday"},
        {"ram": 1},
        {"resources": {"a": 1}},
        {"resources": []},
        {"nodes": [1]},
        {"nodes": [{**dataclasses.asdict(NODE), "ram_bytes": True}]},
        {"more": 1},
        {"name": "../first"},
        {"nodes": [{**dataclasses.asdict(NODE), "name": "../../disk"}]},
    ],
)
def test_values_of_other_types_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(StateError, match="damaged"):
        parse_manifest(forged(render_manifest(MADE), **changes), "w")


@pytest.mark.parametrize("changes", [{"snapshot": "../../etc"}, {"phase": "x"}, {"verb": 1}, {"ram": "yes"}])
def test_an_operation_leads_nowhere_else(changes: dict[str, object]) -> None:
    with pytest.raises(StateError, match="damaged"):
        parse_operation(forged(render_operation(DOES), **changes), "w")


def test_a_newer_format_is_not_guessed_at() -> None:
    with pytest.raises(StateError, match="its format is 2, this version knows 1"):
        parse_manifest(forged(render_manifest(MADE), format=2), "w")


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "..", "a/b", "a" * 31, "a\n"])
def test_what_would_be_another_path_is_no_name(name: str) -> None:
    with pytest.raises(UsageError):
        check_name(name)


def test_names_are_words_with_dashes() -> None:
    for name in ("a", "before-lesson-2", "a" * 30):
        check_name(name)
