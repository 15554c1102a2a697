"""The phases of a rotation and its record."""

from __future__ import annotations

import pytest

from emulator.core.errors import StateError
from emulator.credentials.rotation_phases import (
    PHASES,
    TAGS,
    Phase,
    RecordDamagedError,
    RotatedSecret,
    first_phase,
    next_phase,
    parse_record,
    render_record,
)


@pytest.mark.parametrize("secret", list(RotatedSecret))
def test_phases_follow_each_other_to_an_end(secret: RotatedSecret) -> None:
    seen = [first_phase(secret)]
    while (following := next_phase(secret, seen[-1])) is not None:
        seen.append(following)
    assert tuple(seen) == PHASES[secret]
    assert seen[-1] is Phase.PROVE
    assert TAGS[secret]


@pytest.mark.parametrize("secret", [RotatedSecret.SSH, RotatedSecret.TLS])
def test_nodes_trust_the_new_one_before_anything_else(secret: RotatedSecret) -> None:
    phases = PHASES[secret]
    assert phases.index(Phase.TRUST) < phases.index(Phase.SWITCH) < phases.index(Phase.DROP)


@pytest.mark.parametrize("secret", list(RotatedSecret))
def test_the_record_is_read_back(secret: RotatedSecret) -> None:
    for phase in PHASES[secret]:
        assert parse_record(secret, render_record(secret, phase)) is phase


def test_a_record_of_the_format_without_a_checksum_is_read() -> None:
    assert parse_record(RotatedSecret.SSH, b'{"format": 1, "secret": "ssh", "phase": "drop"}\n') is Phase.DROP


def test_a_changed_letter_is_seen() -> None:
    """Also where what it makes is a record that could be one."""
    good = render_record(RotatedSecret.TLS, Phase.TRUST)
    for bad in (good.replace(b"trust", b"drop"), good.replace(b'"format": 2', b'"format": 1'), good[:-3]):
        with pytest.raises(RecordDamagedError):
            parse_record(RotatedSecret.TLS, bad)


def test_a_newer_version_s_record_is_no_damage() -> None:
    with pytest.raises(StateError, match="has format 3, this version knows 2") as caught:
        parse_record(RotatedSecret.SSH, b'{"format": 3, "secret": "ssh", "phase": "trust", "sum": "of its own"}')
    assert not isinstance(caught.value, RecordDamagedError)
    flipped = render_record(RotatedSecret.SSH, Phase.TRUST).replace(b'"format": 2', b'"format": 3')
    with pytest.raises(RecordDamagedError):
        parse_record(RotatedSecret.SSH, flipped)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"format": 2, "secret": "ssh", "phase": "trust"}',
        b'{"format": 1, "secret": "tls", "phase": "trust"}',
        b'{"format": 1, "secret": "ssh", "phase": "renew"}',
        b'{"format": 1, "secret": "ssh", "phase": 7}',
        b"[" * 100000,
    ],
)
def test_a_record_that_cannot_be_believed_is_refused(text: bytes) -> None:
    with pytest.raises(StateError, match="record of the rotation of ssh is damaged"):
        parse_record(RotatedSecret.SSH, text)
