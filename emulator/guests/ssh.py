"""ssh to the guests with the lab's own key, host keys and configuration, and none of the user's."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from emulator.core.errors import CommandTimeoutError, HyperscalerError
from emulator.core.fs import write_private
from emulator.core.ports import Completed, GuestAddress, ProcessRunner, log
from emulator.core.waiting.pace import Pace
from emulator.credentials.ssh_config import CONNECT_TIMEOUT, checked_name, client_settings

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


class OpenSshShell:
    """`GuestShell` on the ssh client.

    Args:
        key: the lab's private key.
        known_hosts: the lab's known_hosts, by node name.
        guest_prefix: argv prefix that enters the network of the guests.
        runner: runs ssh.
        pace: of this host; the seconds that callers give are a fast host's.
    """

    def __init__(
        self,
        key: Path,
        known_hosts: Path,
        guest_prefix: tuple[str, ...],
        runner: ProcessRunner,
        pace: Pace | None = None,
    ) -> None:
        self._key = key
        self._known_hosts = known_hosts
        self._prefix = guest_prefix
        self._runner = runner
        self._pace = pace or Pace()

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
            self.argv(guest, command, connect_timeout=self._pace.seconds(min(CONNECT_TIMEOUT, timeout))),
            timeout=self._pace.seconds(timeout),
            check=check,
            stdin=stdin,
        )

    def ready(self, guest: GuestAddress, *, timeout: float) -> bool:
        """See `GuestShell.ready`."""
        timeout = self._pace.seconds(timeout)
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
        settings = client_settings(self._key, self._known_hosts)
        settings["BatchMode"] = "yes"
        settings["ConnectTimeout"] = str(max(1, round(connect_timeout)))
        settings["HostKeyAlias"] = checked_name(guest.name)
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        words = [*self._prefix, "ssh", "-F", "none", *options, "-l", guest.user, "--", str(guest.ip)]
        return [*words, command] if command else words


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
            lines.append(f"{checked_name(name)} {algorithm} {blob}\n")
    write_private(path, "".join(lines).encode("ascii"))


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
