"""Who may log in to the nodes, and orders for certificates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from emulator.core.gateway.names import Door
from emulator.credentials.users import AccessBook


@dataclass(frozen=True, slots=True)
class CertificateOrder:
    """A certificate for `user`, good for `seconds` from now. `public_key`: theirs; empty for one that is made, or was
    made before, in `directory`. `forwarding`: whether ports and agents may be forwarded. `door`: the host's gateway, if
    the user comes in by it."""

    user: str
    serial: int
    seconds: int
    directory: Path
    public_key: str = ""
    forwarding: bool = False
    nodes: tuple[str, ...] = ()
    door: Door | None = None


@dataclass(frozen=True, slots=True)
class SshTrust:
    """Who may log in to the nodes. Keys are public ones, as `TYPE BASE64`.

    Attributes:
        authorities: the lab's ssh authority (none yet: empty), and the one that is about to take its place.
        host_certificates: what the authority gave to nodes, by name.
        book: the lab's users.
        login_keys: the tool's own key, and the one that is about to take its place; empty: left as they are.
    """

    authorities: tuple[str, ...] = ()
    host_certificates: Mapping[str, str] = field(default_factory=dict)
    book: AccessBook = field(default_factory=AccessBook)
    login_keys: tuple[str, ...] = ()
