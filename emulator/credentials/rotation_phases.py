"""The secrets that can be rotated, the phases of a rotation, and the record of its progress.

A record lies on the disk from before the first effect until after the last one. It names a phase that is under way:
a phase can be carried out again, and leads to the same end whatever a killed run has left of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum

from emulator.core.errors import StateError

FORMAT = 2  # 1 had no checksum


class RotatedSecret(StrEnum):
    """`ssh`: the lab's own key pair and its certificate authority. `munge`: the key of Slurm's realm. `tls`: the
    internal certificate authority and all certificates of nodes."""

    SSH = "ssh"
    MUNGE = "munge"
    TLS = "tls"


class Phase(StrEnum):
    """trust: nodes accept the new one as well as the old. switch: the new one takes the old one's place on the host.
    renew: nodes get what is derived from the new one. drop: nodes forget the old one. prove: it is tried."""

    TRUST = "trust"
    SWITCH = "switch"
    RENEW = "renew"
    DROP = "drop"
    PROVE = "prove"


PHASES: Mapping[RotatedSecret, tuple[Phase, ...]] = {
    # Who holds a key that all nodes trust cannot be locked out, so the old one goes at once with the switch.
    RotatedSecret.SSH: (Phase.TRUST, Phase.SWITCH, Phase.DROP, Phase.PROVE),
    # MUNGE knows one key only: there is no trusting two.
    RotatedSecret.MUNGE: (Phase.SWITCH, Phase.RENEW, Phase.PROVE),
    # A node that has its new certificate talks to nodes that have not yet got theirs, and the other way round.
    RotatedSecret.TLS: (Phase.TRUST, Phase.SWITCH, Phase.RENEW, Phase.DROP, Phase.PROVE),
}

TAGS: Mapping[RotatedSecret, tuple[str, ...]] = {
    RotatedSecret.SSH: ("ssh",),
    RotatedSecret.MUNGE: ("munge",),
    RotatedSecret.TLS: ("tls",),
}
"""Tags of the playbooks' tasks that use a secret."""

RESOURCES: Mapping[RotatedSecret, tuple[str, ...]] = {
    RotatedSecret.SSH: ("ssh-key/lab", "ssh-key/ca"),
    RotatedSecret.MUNGE: ("secret/munge",),
    RotatedSecret.TLS: ("secret/tls-ca",),
}
"""Ids of the resources that are made again."""


def first_phase(secret: RotatedSecret) -> Phase:
    return PHASES[secret][0]


def next_phase(secret: RotatedSecret, phase: Phase) -> Phase | None:
    """The following phase; None after the last one."""
    phases = PHASES[secret]
    following = phases.index(phase) + 1
    return phases[following] if following < len(phases) else None


class RecordDamagedError(StateError):
    """A record's content is invalid: the rotation's progress must be derived from its files."""


def render_record(secret: RotatedSecret, phase: Phase) -> bytes:
    data: dict[str, object] = {"format": FORMAT, "secret": secret.value, "phase": phase.value}
    return json.dumps({**data, "sum": _checksum(data)}).encode() + b"\n"


def parse_record(secret: RotatedSecret, text: bytes) -> Phase:
    """The current phase.

    Raises:
        RecordDamagedError: its content cannot be believed.
        StateError: it is of a newer version.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise _damaged(secret)
    form = data.get("format")
    # A flipped bit can make a format, too; then the rest of the record is as this version wrote it.
    if type(form) is int and form > FORMAT and data.get("sum") != _checksum({**data, "format": FORMAT}):
        raise StateError(
            f"the record of the rotation of {secret} has format {form}, this version knows {FORMAT}",
            fix="use the version of hyperscaler that wrote it, or a newer one",
        )
    whole = data.get("sum") == _checksum(data) if form == FORMAT else form == 1 and "sum" not in data
    phase = next((each for each in PHASES[secret] if data.get("phase") == each.value), None)
    if not whole or phase is None or data.get("secret") != secret.value:
        raise _damaged(secret)
    return phase


def _checksum(data: Mapping[str, object]) -> str:
    body = json.dumps({key: value for key, value in data.items() if key != "sum"}, sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _damaged(secret: RotatedSecret) -> RecordDamagedError:
    return RecordDamagedError(
        f"the record of the rotation of {secret} is damaged",
        fix="the next rotate or provision goes on from the rotation's files",
    )
