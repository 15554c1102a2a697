"""The secrets that can be rotated, the phases in which it is done, and the record of how far it has come.

A record lies on the disk from before the first effect until after the last one. It names a phase that is under way:
a phase can be carried out again, and leads to the same end whatever a killed run has left of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum

from emulator.errors import StateError

FORMAT = 1


class RotatedSecret(StrEnum):
    """`ssh`: the lab's own key pair and its certificate authority. `munge`: the key of Slurm's realm. `tls`: the
    internal certificate authority and all certificates of nodes."""

    SSH = "ssh"
    MUNGE = "munge"
    TLS = "tls"


class Phase(StrEnum):
    """trust: nodes take the new one beside the old. switch: the new one takes the old one's place on the host.
    renew: nodes are given what comes of the new one. drop: nodes forget the old one. prove: it is tried."""

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
"""Of the playbooks' tasks that a secret matters to."""

RESOURCES: Mapping[RotatedSecret, tuple[str, ...]] = {
    RotatedSecret.SSH: ("ssh-key/lab", "ssh-key/ca"),
    RotatedSecret.MUNGE: ("secret/munge",),
    RotatedSecret.TLS: ("secret/tls-ca",),
}
"""Ids of the resources that are made anew."""


def first_phase(secret: RotatedSecret) -> Phase:
    return PHASES[secret][0]


def next_phase(secret: RotatedSecret, phase: Phase) -> Phase | None:
    """What follows; None after the last one."""
    phases = PHASES[secret]
    following = phases.index(phase) + 1
    return phases[following] if following < len(phases) else None


def render_record(secret: RotatedSecret, phase: Phase) -> bytes:
    return json.dumps({"format": FORMAT, "secret": secret.value, "phase": phase.value}).encode() + b"\n"


def parse_record(secret: RotatedSecret, text: bytes) -> Phase:
    """The phase that is under way.

    Raises:
        StateError: damaged, or written by another version.
    """
    try:
        data = json.loads(text)
        phase = Phase(data["phase"])
        if data["format"] == FORMAT and data["secret"] == secret.value and phase in PHASES[secret]:
            return phase
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise StateError(
        f"the record of the rotation of {secret} is damaged, or of another version",
        fix="use the version of hyperscaler that wrote it; nodes trust the old secret as long as it is there",
    )
