"""ssh into the guests, with the lab's own key, host keys and configuration, and nothing of the user's."""

from __future__ import annotations

import base64
import binascii
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from emulator.errors import CommandTimeoutError, HyperscalerError
from emulator.ports import Completed, GuestAddress, ProcessRunner, log

# Seconds. Without KVM a guest needs several seconds for a key exchange while it boots.
_CONNECT_TIMEOUT = 30

# What a host key's blob must be: algorithm -> length in bytes (RFC 8709, RFC 5656), None where it varies.
_KEY_LENGTHS: Mapping[str, int | None] = {
    "ssh-ed25519": 51,
    "ecdsa-sha2-nistp256": 104,
    "ssh-rsa": None,
}
_CONSOLE_KEY = re.compile(
    r"^(?:\[ *\d+\.\d+\] )?(?:[\w.@-]+\[\d+\]: )?"  # the kernel's time and the sender's name, where they are shown
    r"hyperscaler-host-key: ([a-z0-9-]{1,40}) ([A-Za-z0-9+/]{16,2048}={0,2})\s*$"
)
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")


class OpenSshShell:
    """`GuestShell` on the ssh client.

    Args:
        key: the lab's private key.
        known_hosts: the lab's known_hosts, by node name.
        guest_prefix: argv prefix that enters the network of the guests.
        runner: runs ssh.
    """

    def __init__(self, key: Path, known_hosts: Path, guest_prefix: tuple[str, ...], runner: ProcessRunner) -> None:
        self._key = key
        self._known_hosts = known_hosts
        self._prefix = guest_prefix
        self._runner = runner

    def run(
        self,
        guest: GuestAddress,
        command: str,
        *,
        timeout: float,
        check: bool = True,
        stdin: str | None = None,
    ) -> Completed:
        """See `GuestShell.run`. Exit status 255 is ssh's own: no connection."""
        return self._runner.run(
            self.argv(guest, command, connect_timeout=min(_CONNECT_TIMEOUT, timeout)),
            timeout=timeout,
            check=check,
            stdin=stdin,
        )

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        """See `GuestShell.ready`."""
        try:
            argv = self.argv(guest, "true", connect_timeout=timeout)
            done = self._runner.run(argv, timeout=timeout, check=False)
        except CommandTimeoutError:
            return False
        if done.returncode != 0:
            log.debug("%s is not ready: %s", guest.name, done.stderr.strip())
        return done.returncode == 0

    def argv(self, guest: GuestAddress, command: str = "", *, connect_timeout: float = 30) -> list[str]:
        """The ssh command; an empty `command` opens a login shell."""
        settings = _settings(self._key, self._known_hosts)
        settings["BatchMode"] = "yes"
        settings["ConnectTimeout"] = str(max(1, round(connect_timeout)))
        settings["HostKeyAlias"] = _checked_name(guest.name)
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        words = [*self._prefix, "ssh", "-F", "none", *options, "-l", guest.user, "--", str(guest.ip)]
        return [*words, command] if command else words


def ssh_config(guests: Sequence[GuestAddress], *, key: Path, known_hosts: Path, guest_prefix: tuple[str, ...]) -> str:
    """A configuration with which `ssh -F FILE NODE` works from the host, for people and for Ansible.

    A node answers to its name and to its address. Other hosts are not touched, so that the file can be included into
    somebody's own. Where the guests live in a namespace, `nc -F` (package
    netcat-openbsd) connects inside it and hands the connected socket to ssh, so that no process stays between.
    """
    lines = ["# Written by hyperscaler at each provision; changes are lost."]
    for guest in guests:
        lines += [
            f"Host {_checked_name(guest.name)} {guest.ip}",
            f"    HostName {guest.ip}",
            f"    HostKeyAlias {guest.name}",
            f"    User {_checked_name(guest.user)}",
        ]
    lines.append(f"Host {' '.join(f'{guest.name} {guest.ip}' for guest in guests) or '!*'}")
    lines += [f"    {name} {value}" for name, value in _settings(key, known_hosts).items()]
    lines.append(f"    ConnectTimeout {_CONNECT_TIMEOUT}")
    if guest_prefix:
        command = shlex.join([*guest_prefix, "nc", "-F"]).replace("%", "%%")
        lines += [f"    ProxyCommand {command} %h %p", "    ProxyUseFdpass yes"]
    return "\n".join(lines) + "\n"


def host_keys_from_console(text: str) -> tuple[str, ...]:
    """The host keys that a guest printed on its console as `hyperscaler-host-key: ssh-ed25519 AAAA...`.

    The guest writes this text, so anything may be in it: a line counts only when algorithm, base64 and blob agree.
    Of several keys of one algorithm the last counts, since a guest that was rebuilt appends to the same log.
    """
    keys: dict[str, str] = {}
    for line in text.splitlines():
        match = _CONSOLE_KEY.match(line)
        if match and _is_key(match.group(1), match.group(2)):
            keys[match.group(1)] = f"{match.group(1)} {match.group(2)}"
    return tuple(keys[name] for name in sorted(keys))


def write_known_hosts(path: Path, keys: Mapping[str, Sequence[str]]) -> None:
    """Replace the known_hosts at `path` (0600, at once or not at all): node name -> its keys.

    Raises:
        HyperscalerError: a name or key that would break the file's lines.
    """
    lines = []
    for name, node_keys in sorted(keys.items()):
        for key in node_keys:
            algorithm, _, blob = key.partition(" ")
            if not _is_key(algorithm, blob):
                raise HyperscalerError("not an ssh host key", where=name)
            lines.append(f"{_checked_name(name)} {algorithm} {blob}\n")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _settings(key: Path, known_hosts: Path) -> dict[str, str]:
    """The lab's key and host keys only; neither the user's files nor an agent take part."""
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


def _quoted(path: Path) -> str:
    """A path as ssh's option parser reads it: in quotes, percent signs doubled; `~` is left for ssh to resolve.

    Raises:
        HyperscalerError: the path holds a character that ssh's syntax has no place for.
    """
    text = str(path) if path.parts[:1] == ("~",) else str(path.absolute())
    if any(character in text for character in '"\n\r\\') or "${" in text:
        raise HyperscalerError("the path holds characters that ssh's configuration cannot express", where=text)
    return '"' + text.replace("%", "%%") + '"'


def _checked_name(name: str) -> str:
    if not _HOST_NAME.fullmatch(name):
        raise HyperscalerError(f"{name!r} cannot be a host or user name in ssh's configuration")
    return name


def _is_key(algorithm: str, blob: str) -> bool:
    """Whether `blob` is the base64 of a public key that calls itself `algorithm` and has the right length."""
    if algorithm not in _KEY_LENGTHS:
        return False
    try:
        data = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        return False
    name = algorithm.encode()
    length = _KEY_LENGTHS[algorithm]
    return data.startswith(len(name).to_bytes(4, "big") + name) and (len(data) == length if length else len(data) > 64)
