"""How the gateway's OpenSSH server is set up. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emulator.core.gateway.names import ACCOUNT

GRACE_SECONDS = 120
"""A client that has not logged in by then is dropped. A slow host needs some seconds of it."""


def sshd_config(host_key: Path, account: str = ACCOUNT) -> str:
    """The server's whole configuration: certificates alone, and nothing but connections that a key's line permits.

    Sessions are refused (`MaxSessions 0`), so that there is no shell, command, subsystem or terminal; the rest of what
    a connection could ask for is turned off one by one, and `restrict` in each line of the keys does so once more.
    """
    settings = {
        "HostKey": host_key,
        "PidFile": "none",
        "AllowUsers": account,
        "AuthenticationMethods": "publickey",
        "PubkeyAuthentication": "yes",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "HostbasedAuthentication": "no",
        "TrustedUserCAKeys": "none",
        "AuthorizedPrincipalsFile": "none",
        "StrictModes": "yes",
        "AllowTcpForwarding": "local",
        "AllowStreamLocalForwarding": "no",
        "AllowAgentForwarding": "no",
        "X11Forwarding": "no",
        "GatewayPorts": "no",
        "PermitListen": "none",
        "PermitTunnel": "no",
        "PermitTTY": "no",
        "PermitUserEnvironment": "no",
        "PermitUserRC": "no",
        "MaxSessions": 0,
        "ForceCommand": "/bin/false",
        "Compression": "no",
        "UseDNS": "no",
        "PrintMotd": "no",
        "Banner": "none",
        # Two certificates and the plain key, which ssh offers one after the other.
        "MaxAuthTries": 4,
        "LoginGraceTime": GRACE_SECONDS,
        "ClientAliveInterval": 30,
        "ClientAliveCountMax": 6,
        "LogLevel": "VERBOSE",
    }
    return "".join(f"{name} {value}\n" for name, value in settings.items())


def sshd_argv(program: Path, config: Path, keys: Sequence[Path]) -> list[str]:
    """One server for the connection that is its standard input; it logs to its standard error.

    Args:
        program: sshd, as an absolute path.
        config: the file with `sshd_config`.
        keys: authorized keys of the open labs.
    """
    listed = " ".join(f'"{path}"' for path in keys) or "none"
    return [str(program), "-i", "-e", "-f", str(config), "-o", f"AuthorizedKeysFile={listed}"]
