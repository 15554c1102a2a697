"""The gateway's door: the server's settings, and what it prints of what clients have sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.core.errors import ServiceError
from emulator.services.gateway.door import one_line
from emulator.services.gateway.front import listen
from emulator.services.gateway.sshd import sshd_argv, sshd_config


def test_the_server_has_no_sessions_and_no_forwarding_but_to_what_a_key_permits() -> None:
    settings = dict(line.split(" ", 1) for line in sshd_config(Path("/run/x/host_key")).splitlines())
    assert settings["MaxSessions"] == "0"
    assert settings["AllowTcpForwarding"] == "local"
    assert settings["AuthenticationMethods"] == "publickey"
    off = ("AllowStreamLocalForwarding", "AllowAgentForwarding", "X11Forwarding", "PermitTunnel", "PermitTTY")
    assert {settings[name] for name in (*off, "PasswordAuthentication", "GatewayPorts", "PermitUserRC")} == {"no"}
    assert {settings[name] for name in ("PermitListen", "TrustedUserCAKeys", "AuthorizedPrincipalsFile")} == {"none"}
    assert "PermitOpen" not in settings, "each line of the keys says what it may open"


def test_without_a_lab_the_server_knows_no_key() -> None:
    program, config = Path("/usr/sbin/sshd"), Path("/run/x/sshd_config")
    assert sshd_argv(program, config, [])[-1] == "AuthorizedKeysFile=none"
    assert sshd_argv(program, config, [Path("/run/x/a"), Path("/run/x/b")])[-1] == (
        'AuthorizedKeysFile="/run/x/a" "/run/x/b"'
    )


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (b"Accepted\r\n", "Accepted"),
        (b"Invalid user x\nAccepted publickey for root\r\n", "Invalid user x\\x0aAccepted publickey for root"),
        (b"\x1b[2J\x07\x00\x7f", "\\x1b[2J\\x07\\x00\\x7f"),
        ("\u202eabc".encode(), "\\xe2\\x80\\xaeabc"),
    ],
)
def test_a_message_is_one_line_whatever_a_client_has_sent(message: bytes, line: str) -> None:
    assert one_line(message) == line


def test_a_port_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(ServiceError, match=r"cannot listen: .*in use"):
        listen("127.0.0.1", first.getsockname()[1])
