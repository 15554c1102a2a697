"""ssh client configuration that reaches a lab's nodes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from emulator.core.errors import HyperscalerError
from emulator.core.ports import GuestAddress

# Seconds. Without KVM a guest needs several seconds for a key exchange while it boots.
CONNECT_TIMEOUT = 30


_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")


def ssh_config(guests: Sequence[GuestAddress], *, key: Path, known_hosts: Path, guest_prefix: tuple[str, ...]) -> str:
    """A configuration with which `ssh -F FILE NODE` works from the host, for people and for Ansible.

    A node answers to its name and to its address. Other hosts are not affected, so that a user's own
    configuration can include the file. Where the guests are in a namespace, `nc -F` (package
    netcat-openbsd) connects inside it and passes the connected socket to ssh, so that no process stays in between.
    """
    lines = ["# Written by hyperscaler at each provision; changes are lost."]
    for guest in guests:
        lines += [
            f"Host {checked_name(guest.name)} {guest.ip}",
            f"    HostName {guest.ip}",
            f"    HostKeyAlias {guest.name}",
            f"    User {checked_name(guest.user)}",
        ]
    lines.append(f"Host {' '.join(f'{guest.name} {guest.ip}' for guest in guests) or '!*'}")
    lines += [f"    {name} {value}" for name, value in client_settings(key, known_hosts).items()]
    lines.append(f"    ConnectTimeout {CONNECT_TIMEOUT}")
    if guest_prefix:
        command = shlex.join([*guest_prefix, "nc", "-F"]).replace("%", "%%")
        lines += [f"    ProxyCommand {command} %h %p", "    ProxyUseFdpass yes"]
    return "\n".join(lines) + "\n"


def client_settings(key: Path, known_hosts: Path) -> dict[str, str]:
    """Settings that use only the lab's key and host keys, neither the user's files nor an agent."""
    return {
        "IdentityFile": _quoted(key),
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "UserKnownHostsFile": _quoted(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "CheckHostIP": "no",
        "UpdateHostKeys": "no",
        "PreferredAuthentications": "publickey",
        # ssh's first choice, a post-quantum exchange, costs an emulated CPU seconds at each login.
        "KexAlgorithms": "curve25519-sha256",
        "ForwardAgent": "no",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
        "LogLevel": "ERROR",
    }


def checked_name(name: str) -> str:
    if not _HOST_NAME.fullmatch(name):
        raise HyperscalerError(f"{name!r} cannot be a host or user name in ssh's configuration")
    return name


def _quoted(path: Path) -> str:
    """A path as ssh's option parser reads it: in quotes, percent signs doubled; `~` is left for ssh to resolve.

    Raises:
        HyperscalerError: the path holds a character that ssh's syntax has no place for.
    """
    text = str(path) if path.parts[:1] == ("~",) else str(path.absolute())
    if any(character in text for character in '"\n\r\\') or "${" in text:
        raise HyperscalerError("the path holds characters that ssh's configuration cannot express", where=text)
    return '"' + text.replace("%", "%%") + '"'
